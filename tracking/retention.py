"""Which runs still need their checkpoint, and taking it from those that do not. Metrics, params and the other artifacts stay.

A checkpoint is needed by a registered version, by a run that is not over or whose sweep is not, by every run of a final stage, by
a reference or a teacher, and by the search run of a configuration that the final stage took up (the best ones, and trial 0).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tracking.checkpoints import FREED
from tracking.client import connect, translated
from tracking.creation import RUN_KEY
from tracking.errors import TrackingError
from tracking.places import absolute_uri

CHECKPOINT = "checkpoint"
NOTE = "freed: only the best rows, trial 0 and references keep theirs"


@dataclass(frozen=True)
class Freeable:
    """A run whose checkpoint nobody needs."""

    run_id: str
    name: str
    experiment: str
    key: str
    """Its `dmkd.run_key`: <sweep>/<trial's folder>."""
    bytes: int
    """What its checkpoint takes in the artifact store; 0: it holds none."""


def freeable(uri: str, experiment: str | None = None) -> list[Freeable]:
    """Every run that can do without its checkpoint, in the order of the tracker. Raises `TrackingError` without one."""
    uri = absolute_uri(uri)
    client = connect(uri)
    with translated(uri):
        experiments = {str(found.experiment_id): str(found.name) for found in _all(client.search_experiments)}
        if experiment is not None and experiment not in experiments.values():
            raise TrackingError(f"no experiment {experiment!r} in {uri}; there are {', '.join(sorted(experiments.values()))}")
        wanted = [key for key, name in experiments.items() if experiment in (None, name)]
        runs = list(_all(client.search_runs, experiment_ids=wanted)) if wanted else []
        versions = {str(version.run_id) for version in _all(client.search_model_versions)}
        sweeps = _sweeps_of(runs)
        unneeded = [run for run in runs if not _needed(run, sweeps, versions)]
        return [
            Freeable(
                run.info.run_id,
                str(run.info.run_name),
                experiments[str(run.info.experiment_id)],
                run.data.tags[RUN_KEY],
                _size(client, run.info.run_id),
            )
            for run in unneeded
        ]


@dataclass(frozen=True)
class _Sweeps:
    """What the runs of a tracker say of each other."""

    ended: frozenset[str]
    """Parent runs that finished."""
    taken: frozenset[tuple[str, str]]
    """(parent, row) of every run of a final stage."""


def _sweeps_of(runs: Iterable[Any]) -> _Sweeps:
    """The sweeps that finished, and the rows that their final stages took up."""
    runs = list(runs)
    ended = {run.info.run_id for run in runs if run.data.tags.get("dmkd.stage") == "sweep" and run.info.status == "FINISHED"}
    final = [run.data.tags for run in runs if run.data.tags.get("dmkd.stage") == "final"]
    return _Sweeps(frozenset(ended), frozenset((_parent(tags), tags.get("dmkd.row", "")) for tags in final))


def _parent(tags: dict[str, str]) -> str:
    return tags.get("mlflow.parentRunId", "")


def _needed(run: Any, sweeps: _Sweeps, versions: set[str]) -> bool:
    tags = run.data.tags
    if RUN_KEY not in tags or tags.get("dmkd.stage") != "search" or tags.get("dmkd.reference"):
        return True
    if run.info.run_id in versions or run.info.status in ("RUNNING", "SCHEDULED") or _parent(tags) not in sweeps.ended:
        return True
    return tags.get("dmkd.trial") == "0" or (_parent(tags), tags.get("dmkd.row", "")) in sweeps.taken


def free(uri: str, run_ids: Iterable[str]) -> None:
    """Take the checkpoints of these runs away, and say so on each. Raises `TrackingError` where the store will not."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = absolute_uri(uri)
    client = connect(uri)
    for run_id in run_ids:
        with translated(uri):
            root = client.get_run(run_id).info.artifact_uri
            client.set_tag(run_id, FREED, NOTE)
            if not _size(client, run_id):
                continue
        try:
            store: Any = get_artifact_repository(root, tracking_uri=uri)
            store.delete_artifacts(CHECKPOINT)
        except Exception as error:  # each store has exceptions of its own
            text = " ".join(str(error).split())[:200]
            raise TrackingError(f"run {run_id}: its checkpoint was not deleted ({text}); `dmkd gc --apply` tries again") from None


def _size(client: Any, run_id: str) -> int:
    total, folders = 0, [CHECKPOINT]
    while folders:
        for item in client.list_artifacts(run_id, folders.pop()):
            if item.is_dir:
                folders.append(item.path)
            else:
                total += int(item.file_size or 0)
    return total


def _all(search: Any, **given: Any) -> Iterable[Any]:
    token = None
    while True:
        page = search(**given, max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return

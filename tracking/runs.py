"""Write runs to MLflow, and read them back.

    with log_run(uri, "signs/quickstart", "trial 3", params={"method.temperature": 0.5}, tags={"dmkd.seed": 0}, key="3") as run:
        run.log({"val/recall_at_1": 0.31}, step=1)
        run.log_artifact(folder, "checkpoint")

Everything goes to a spool on disk first and to the server from a background thread, so that training never waits for the
tracker and loses nothing when the tracker is away (`sync` sends it later). A run is known by its key: the same key continues
the same run. How a run ends:

    FINISHED  the block ended
    FAILED    an exception left the block; the tag dmkd.status_reason says which
    KILLED    it was stopped before its planned end: by a scheduler (reason "pruned ..."), by a person, or its process died
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracking.client import Unreachable, connect, ensure_experiment, translated
from tracking.courier import recover_all
from tracking.creation import earliest
from tracking.delivery import MAX_VALUE, Sender
from tracking.errors import TrackingError
from tracking.places import absolute_uri, default_uri, known_spools, note_spool, spool_folder
from tracking.reading import load_outcomes, load_runs
from tracking.run import Run
from tracking.spool import Spool, now_ms

__all__ = [
    "Run",
    "Synced",
    "default_uri",
    "ensure_experiment",
    "find_run",
    "load_outcomes",
    "load_runs",
    "log_run",
    "start_run",
    "sync",
]

_KEY = re.compile(r"[\w\-./:@ ]{1,250}")
_log = logging.getLogger("tracking")


def start_run(
    uri: str,
    experiment: str,
    name: str,
    *,
    params: Mapping[str, object],
    tags: Mapping[str, object],
    parent_id: str | None = None,
    parent_key: str | None = None,
    key: str | None = None,
    spool: Path | str | None = None,
    patience: float = 30.0,
    allowed: Callable[[], bool] | None = None,
) -> Run:
    """Find the run with this `key` in the experiment and continue it, or make it (without a key: always a new one).

    `parent_id` nests it, or `parent_key` where the parent may itself not have reached the server yet. Once `allowed` says no,
    nothing more is sent: the run is another's.
    `spool` is the folder to wait in (default: in the user's state folder); `patience` is how many
    seconds `finish` waits. An absent server is no error: the run is then made when the server is back. Raises
    `TrackingError` for what the server refuses.
    """
    key = key or uuid.uuid4().hex
    if not _KEY.fullmatch(key):
        raise TrackingError(f"run key {key!r}: wanted 1 to 250 letters, digits, or '_-./:@ '")
    short, long = _fit(params)
    header: dict[str, Any] = {"uri": absolute_uri(uri), "experiment": experiment, "name": name, "key": key, "params": short}
    header |= {"tags": {tag: str(value) for tag, value in tags.items()}, "parent_id": parent_id, "start_time": now_ms()}
    header |= {"parent_key": parent_key}
    root = Path(spool) if spool else spool_folder()
    note_spool(root)
    place = Spool.create(root, header)
    sender = Sender(place, allowed)
    try:
        sender.open(live=True)
    except Unreachable as error:
        _log.warning("%s; run %r goes on and waits in %s", error, name, place.folder)
    except BaseException:
        place.remove()
        raise
    run = Run(place, sender, patience)
    if long:
        import json

        run.log_text(json.dumps(long, indent=1), "params_long.json")
    return run


@contextmanager
def log_run(
    uri: str,
    experiment: str,
    name: str,
    *,
    params: Mapping[str, object],
    tags: Mapping[str, object],
    parent_id: str | None = None,
    key: str | None = None,
    spool: Path | str | None = None,
    patience: float = 30.0,
) -> Iterator[Run]:
    """`start_run` as a context that never leaves a run RUNNING: an exception makes it FAILED, an interruption KILLED."""
    run = start_run(uri, experiment, name, params=params, tags=tags, parent_id=parent_id, key=key, spool=spool, patience=patience)
    try:
        yield run
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        run.finish(status, f"{type(error).__name__}: {error}")
        raise
    run.finish()


@dataclass(frozen=True)
class Synced:
    """What `sync` did: runs delivered, and for each that waits on, why."""

    delivered: int
    waiting: tuple[str, ...] = ()


def sync(spool: Path | str | None = None) -> Synced:
    """Deliver what runs left on disk while the server was away; each point arrives once, with the time it was logged.

    A run whose process died without closing it becomes KILLED; runs that are still being written are left to their process.
    Without `spool`: every spool folder that this user's programs have used on this machine, those of sweeps' storages too.
    """
    delivered, waiting = 0, list[str]()
    for root in [Path(spool)] if spool else known_spools():
        done, left = recover_all(root)
        delivered, waiting = delivered + done, waiting + left
    return Synced(delivered, tuple(waiting))


def find_run(uri: str, experiment: str, key: str) -> tuple[str, str] | None:
    """The run id and the status of the run with this key, or None. Raises `Unreachable` without a server."""
    uri = absolute_uri(uri)
    client = connect(uri)
    with translated(uri):
        found = client.get_experiment_by_name(experiment)
        run = earliest(client, found.experiment_id, key) if found else None
    return (run.info.run_id, run.info.status) if run else None


def _fit(params: Mapping[str, object]) -> tuple[dict[str, str], dict[str, str]]:
    """Params as MLflow takes them (250 characters of key, 6000 of value), and the whole of those that had to be cut."""
    texts = {str(key): str(value) for key, value in params.items()}
    long = {key: value for key, value in texts.items() if len(key) > 250 or len(value) > MAX_VALUE}
    note = " ... (cut; see params_long.json)"
    return {
        key[:250]: value if len(value) <= MAX_VALUE else value[: MAX_VALUE - len(note)] + note for key, value in texts.items()
    }, long

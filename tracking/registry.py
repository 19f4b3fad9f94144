"""From a name to a folder that can be deployed, and the names themselves: MLflow's registry with its aliases.

A checkpoint is believed only as far as it is checked: known file types, no links, no path that leaves the folder, and for every
weight file the SHA-256 that `model.json` states.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tracking import board
from tracking.checkpoints import Source, from_folder, from_run, install
from tracking.client import connect, translated
from tracking.errors import TrackingError
from tracking.places import absolute_uri, default_uri
from tracking.spool import now_ms

CHECKPOINT = "checkpoint"
HISTORY = "dmkd.history."
"""Tag of a registered model, followed by the alias: its journal, a list of {act, version, run_id, time}."""


def pull(ref: str, to: Path | str, uri: str | None = None) -> Path:
    """Put a checkpoint (weights.safetensors, model.json, config.yaml, ...) into the folder `to`, checked and all at once.

    `ref` is a checkpoint folder or a file in one, `runs:/RUN_ID`, `models:/NAME@ALIAS` (or `/VERSION`), the id of a leaderboard
    row, or its number on the last board printed here. An earlier pull in `to` is replaced, anything else in it refused, and
    what a killed pull left is cleared away. Raises `TrackingError`.
    """
    return install(find(ref, uri), Path(to))


def find(ref: str, uri: str | None = None) -> Source:
    """What `ref` names, as in `pull`. Raises `TrackingError` where it names nothing."""
    uri = absolute_uri(uri) if uri else default_uri()
    path = Path(ref)
    if path.exists():
        return from_folder((path if path.is_dir() else path.parent).resolve())
    return from_run(uri, run_of(ref, uri), CHECKPOINT)


def run_of(ref: str, uri: str) -> str:
    """The run id that `ref` names: `runs:/...`, `models:/...`, a row's id or its number."""
    if match := re.fullmatch(r"runs:/([\w-]+)/?(?:checkpoint/?)?", ref):
        return match[1]
    if ref.startswith("models:/"):
        return _version_run(ref, uri)
    if re.fullmatch(r"\d{1,4}", ref):
        return str(board.numbered(int(ref), uri)["run_id"])
    if re.fullmatch(r"[0-9a-zA-Z]{6,8}", ref):
        return _row_run(ref, uri)
    raise TrackingError(
        f"{ref!r}: no such file, and not runs:/RUN_ID, models:/NAME@ALIAS, or the id or number of a leaderboard row"
    )


def _row_run(row: str, uri: str) -> str:
    from tracking.leaderboard import boards, leaderboard
    from tracking.reading import load_runs

    # One board an experiment: the same configuration in two of them is two rows, with runs of its own in each.
    found, known = set(), set()
    for _, runs in load_runs(uri).group_by("experiment"):
        for frame in [leaderboard(runs, *pair) for pair in boards(runs)] or [leaderboard(runs)]:
            known |= set(frame["id"].to_list())
            found |= {(one["run_id"], one["id"]) for one in frame.to_dicts() if one["id"].startswith(row)}
    if len({run_id for run_id, _ in found}) != 1:
        what = "several rows" if found else "no row"
        there = ", ".join(sorted(known)[:20]) or "none"
        raise TrackingError(
            f"row {row!r}: {what} of {uri} so named; there are {there}: print one experiment's board and give the row's number"
        )
    return str(next(iter(found))[0])


def _version_run(ref: str, uri: str) -> str:
    match = re.fullmatch(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))", ref)
    if match is None:
        raise TrackingError(f"{ref!r}: wanted models:/NAME@ALIAS or models:/NAME/VERSION")
    client = connect(uri)
    name, alias, version = match.groups()
    with translated(uri):
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    run_id: str = found.run_id
    return run_id


def promote(run_id: str, name: str, alias: str = "champion", uri: str | None = None) -> int:
    """Register the checkpoint of a run as a version of the model `name` (once a run) and point `alias` at it; the version.

    The checkpoint is checked first, as in `pull`. Raises `TrackingError`.
    """
    if not re.fullmatch(r"[\w. -]{1,100}", name) or not re.fullmatch(r"[\w-]{1,100}", alias):
        raise TrackingError(
            f"model name {name!r}, alias {alias!r}: wanted letters, digits, '-', '_' (in a name also '.' and spaces)"
        )
    uri = absolute_uri(uri) if uri else default_uri()
    source = from_run(uri, run_id, CHECKPOINT)
    source.check()
    client = connect(uri)
    with translated(uri):
        version = _version_of(client, run_id, name)
        _point(client, name, alias, {"act": "promote", "version": version, "run_id": run_id})
    return version


def _version_of(client: Any, run_id: str, name: str) -> int:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    same = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if same:
        return min(int(version.version) for version in same)
    run = client.get_run(run_id)
    tags = {
        key: value
        for key, value in run.data.tags.items()
        if key in ("dmkd.config_hash", "dmkd.row", "dmkd.protocol", "dmkd.method")
    }
    made = client.create_model_version(name, f"{run.info.artifact_uri}/{CHECKPOINT}", run_id, tags=tags)
    return int(made.version)


def rollback(name: str, alias: str = "champion", uri: str | None = None) -> int:
    """Point `alias` at the version it named before the last `promote`; that version. `TrackingError` if there is none."""
    uri = absolute_uri(uri) if uri else default_uri()
    client = connect(uri)
    with translated(uri):
        past = _past(journal(name, alias, uri))
        if len(past) < 2:
            raise TrackingError(f"models:/{name}@{alias}: no earlier version to go back to; it has named {past or 'nothing'}")
        run_id = client.get_model_version(name, str(past[-2])).run_id
        _point(client, name, alias, {"act": "rollback", "version": past[-2], "run_id": run_id})
    return past[-2]


def journal(name: str, alias: str = "champion", uri: str | None = None) -> list[dict[str, Any]]:
    """Every promotion and rollback of an alias, oldest first. Raises `TrackingError` for an unknown model."""
    uri = absolute_uri(uri) if uri else default_uri()
    client = connect(uri)
    with translated(uri):
        model = client.get_registered_model(name)
    entries: list[dict[str, Any]] = json.loads(model.tags.get(HISTORY + alias, "[]"))
    return entries


def _past(entries: list[dict[str, Any]]) -> list[int]:
    """The versions that an alias would fall back through: a promotion puts one on top, a rollback takes it off."""
    past: list[int] = []
    for entry in entries:
        if entry["act"] == "rollback":
            past.pop()
        elif not past or past[-1] != entry["version"]:
            past.append(entry["version"])
    return past


def _point(client: Any, name: str, alias: str, entry: dict[str, Any]) -> None:
    entries = json.loads(client.get_registered_model(name).tags.get(HISTORY + alias, "[]"))
    client.set_registered_model_alias(name, alias, str(entry["version"]))
    entries.append(entry | {"time": now_ms()})
    client.set_registered_model_tag(name, HISTORY + alias, json.dumps(entries[-200:]))

"""From a name to a folder that can be deployed, and the names themselves: MLflow's registry with its aliases.

A checkpoint is believed only as far as it is checked: known file types, no links, no path that leaves the folder, and for every
weight file the SHA-256 that `model.json` states.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracking.checkpoints import Source, from_folder, from_run
from tracking.client import connect, translated
from tracking.errors import TrackingError
from tracking.install import install
from tracking.journal import check_names, deployed, journal, note, stack
from tracking.places import absolute_uri, default_uri
from tracking.refs import run_of, version_of
from tracking.served import check_served, place_of

__all__ = ["Promotion", "deployed", "find", "journal", "promote", "pull", "rollback", "run_of"]

CHECKPOINT = "checkpoint"
GALLERY = "gallery_checkpoint"
"""Where a promoted run keeps the network that embeds the gallery, in a folder by its embedding space, if it is another."""
COPIED = ("dmkd.config_hash", "dmkd.row", "dmkd.protocol", "dmkd.method")
"""Tags of a run that its version has too."""
Finish = Callable[[Path], None]


def pull(ref: str, to: Path | str, uri: str | None = None, *, place: str = CHECKPOINT, finish: Finish | None = None) -> Path:
    """Put a checkpoint (weights.safetensors, model.json, config.yaml, ...) into the folder `to`, checked and all at once.

    `ref` is a checkpoint folder or a file in one, `runs:/RUN_ID`, `models:/NAME@ALIAS` (or `/VERSION`), the id of a leaderboard
    row, or its number on the last board printed here. An earlier pull in `to` is replaced, anything else in it refused. What a
    killed pull of the same checkpoint had fetched is verified and kept; what it left of another is cleared away. `finish` works
    on the verified folder before it is put in its place (what it raises leaves `to` as it was). `place`: a folder of artifacts.
    Raises `TrackingError`.
    """
    return install(find(ref, uri, place), Path(to), finish)


def find(ref: str, uri: str | None = None, place: str = CHECKPOINT) -> Source:
    """What `ref` names, as in `pull`. Raises `TrackingError` where it names nothing, or a version that is not as dmkd made it."""
    uri = absolute_uri(uri) if uri else default_uri()
    path = Path(ref)
    if path.exists():
        return from_folder((path if path.is_dir() else path.parent).resolve())
    if ref.startswith("models:/"):
        version = version_of(ref, uri)
        check_served(uri, version)
        return from_run(uri, str(version.run_id), place)
    return from_run(uri, run_of(ref, uri), place)


@dataclass(frozen=True)
class Promotion:
    """What stands behind a promotion, for the journal and for the version's tags."""

    gate: Mapping[str, Any] = field(default_factory=dict)
    """The verdict and the numbers that it rests on; empty: nothing was measured."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    forced: str = ""
    """Why it was promoted against the gate."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """Of the version: embedding space, dimension, normalisation, preprocessing."""
    gallery: Mapping[str, str] = field(default_factory=dict)
    """The gallery that is deployed with it: "space", and "run_id" and "place" of the network that embedded it."""
    served: Path | None = None
    """A folder with the pyfunc model of the checkpoint (see `tracking.served`)."""
    gallery_checkpoint: Path | None = None
    """The checkpoint of the network that embeds the gallery, to be kept in the run, at the "place" that `gallery` says."""


def promote(run_id: str, name: str, alias: str = "champion", uri: str | None = None, promotion: Promotion | None = None) -> int:
    """Register the checkpoint of a run as a version of the model `name` (once a run) and point `alias` at it; the version.

    The checkpoint is checked first, as in `pull`; whether it is good enough is the caller's to judge (`dmkd promote` does).
    Raises `TrackingError`.
    """
    check_names(name, alias)
    uri, promotion = absolute_uri(uri) if uri else default_uri(), promotion or Promotion()
    source = from_run(uri, run_id, CHECKPOINT)
    source.check()
    client = connect(uri)
    before = deployed(name, alias, uri)
    with translated(uri):
        version = _version_of(client, run_id, name, promotion)
        for key, value in promotion.stamps.items():
            client.set_model_version_tag(name, str(version), key, value)
        told = {"gate": dict(promotion.gate), "metrics": dict(promotion.metrics), "forced": promotion.forced}
        entry = {"act": "promote", "version": version, "run_id": run_id, "from": before["version"] if before else None}
        _point(client, name, alias, entry | told | {"gallery": dict(promotion.gallery)})
    return version


def _version_of(client: Any, run_id: str, name: str, promotion: Promotion) -> int:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if promotion.gallery_checkpoint is not None:
        client.log_artifacts(run_id, str(promotion.gallery_checkpoint), promotion.gallery["place"])
    run = client.get_run(run_id)
    root = str(run.info.artifact_uri).rstrip("/")
    same = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    first = min(same, key=lambda version: int(version.version), default=None)
    place = place_of(name, first.source if first else None, root)
    if promotion.served is not None:  # of a version that is there already, too: its stamp of the code is renewed
        client.log_artifacts(run_id, str(promotion.served), place)
    if first:
        return int(first.version)
    tags = {key: value for key, value in run.data.tags.items() if key in COPIED}
    source = f"{root}/{CHECKPOINT if promotion.served is None else place}"
    return int(client.create_model_version(name, source, run_id, tags=tags).version)


def rollback(name: str, alias: str = "champion", uri: str | None = None) -> int:
    """Point `alias` at the version it named before the last `promote`; that version. `TrackingError` if there is none."""
    uri = absolute_uri(uri) if uri else default_uri()
    client = connect(uri)
    past = stack(journal(name, alias, uri))
    if len(past) < 2:
        named = [entry["version"] for entry in past]
        raise TrackingError(f"models:/{name}@{alias}: no earlier version to go back to; it has named {named or 'nothing'}")
    left, again = past[-1], past[-2]
    entry = {"act": "rollback", "version": again["version"], "run_id": again["run_id"], "from": left["version"]}
    with translated(uri):
        _point(client, name, alias, entry | {"gallery": again.get("gallery", {})})
    return int(again["version"])


def _point(client: Any, name: str, alias: str, entry: dict[str, Any]) -> None:
    client.set_registered_model_alias(name, alias, str(entry["version"]))
    note(client, name, alias, entry | {"to": entry["version"]})


def describe(entry: Mapping[str, Any]) -> str:
    """An entry of the journal as a line."""
    import datetime

    when = datetime.datetime.fromtimestamp(entry["time"] / 1000).astimezone().isoformat(" ", "minutes")
    change = f"{entry.get('from') or '-'} -> {entry['version']}"
    gate = entry.get("gate") or {}
    verdict = str(gate.get("verdict", "not measured") if isinstance(gate, dict) else gate)
    forced = f"; forced: {entry['forced']}" if entry.get("forced") else ""
    said = f"  {verdict}{forced}" if entry["act"] == "promote" else ""
    return f"{when}  {entry['act']:8s} {change:10s} {entry.get('who', 'unknown')}{said}"


def as_json(entries: list[dict[str, Any]]) -> str:
    """The journal for a program."""
    return json.dumps(entries, indent=2)

"""Nodes that take no trial of a sweep, because they have other pictures than it was planned for: they may join at any time.

Who finds out is the first worker there. It touches nothing of its trial, leaves a note in `<storage>/<sweep>/unfit` and ends; the
driver then asks Ray for any other node. A driver that begins forgets the notes: somebody may have copied the data again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.tune import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler

from dmkd.errors import ConfigError
from dmkd.space import override
from sweeps.checks.pictures import check_pictures
from sweeps.shared import Shared
from sweeps.storage import MOUNTED, Storage

FOLDER = "unfit"
LABEL = "ray.io/node-id"
"""Ray gives each node a label of this name."""


def forget(folder: Path, storage: Storage = MOUNTED) -> None:
    """A driver begins: every node may be looked at again. `folder`: of the sweep."""
    storage.drop(folder / FOLDER)


def planned(shared: Shared, job: Mapping[str, Any]) -> str:
    """The fingerprint of the pictures that a trial was planned for; empty: not known."""
    return str((dict(shared.tags) | dict(job["tags"])).get("dmkd.data_fingerprint", ""))


def wrong_node(shared: Shared, job: Mapping[str, Any], resources: PlacementGroupFactory | None) -> bool:
    """In a worker: whether its trial has to go elsewhere, for the pictures here are others; this is noted.

    Where no other node could take it, it has to fail here.
    """
    if not ray.is_initialized() or not (reason := _fault(shared, job)):
        return False
    folder, storage = shared.storage.home(shared), shared.storage
    storage.bring(folder / FOLDER)
    if not elsewhere(folder, resources.required_resources if resources else {}):
        return False
    node = ray.get_runtime_context().get_node_id()
    storage.note(folder / FOLDER / f"{node}.json", json.dumps({"reason": reason}))
    storage.note(folder / FOLDER / f"{node}.{job['key']}.left", "")
    return True


def _fault(shared: Shared, job: Mapping[str, Any]) -> str:
    """What is wrong with the pictures here; empty where all is well. What else is wrong with a trial is for the trial to say."""
    own = {key: value for key, value in job["values"].items() if key.partition(".")[0] == "data"}
    try:
        data = override(shared.base, own).data
    except ConfigError:
        return ""
    try:
        check_pictures(data, planned(shared, job))
    except Exception as error:  # whatever is wrong with a node's copy is to be said
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def known(folder: Path) -> dict[str, str]:
    """{Ray's id of the node: why it takes no trial}."""
    notes = sorted((folder / FOLDER).glob("*.json"))
    return {path.stem: str(json.loads(path.read_text(encoding="utf-8"))["reason"]) for path in notes}


def left(folder: Path, key: str, storage: Storage = MOUNTED) -> set[str]:
    """In the driver: the unfit nodes on which a trial's workers ended, each told once."""
    storage.bring(folder / FOLDER)
    marks = list((folder / FOLDER).glob(f"*.{key}.left"))
    storage.drop(*marks)
    return {mark.name.partition(".")[0] for mark in marks}


def elsewhere(folder: Path, needed: Mapping[str, float]) -> bool:
    """In a worker: whether another node that lives, and is not known as unfit, has what a trial needs."""
    bad = {*known(folder), ray.get_runtime_context().get_node_id()}
    nodes: Iterable[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    fit = [node["Resources"] for node in nodes if node["Alive"] and node["NodeID"] not in bad]
    return any(all(there.get(name, 0.0) >= amount for name, amount in needed.items()) for there in fit)


@dataclass(frozen=True)
class Request:
    """What a trial asks Ray for: called for each new trial, and for each that begins again, in the driver."""

    cpus: int
    gpus: float
    folder: Path
    """Of the sweep."""

    def __call__(self, config: Mapping[str, Any]) -> PlacementGroupFactory:
        """CPUs and GPUs, on any node that is not known as unfit."""
        bad = ",".join(sorted(known(self.folder)))
        where = {"bundle_label_selector": [{LABEL: f"!in({bad})"}]} if bad else {}
        return PlacementGroupFactory([{"CPU": self.cpus, "GPU": self.gpus}], "PACK", **where)


class Avoiding:
    """For a scheduler of Tune: a trial that begins again asks anew where it may. Set `request`."""

    request: Request | None = None

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Here a trial is in none of Tune's queues, which go by what it asks for."""
        if self.request is not None and trial.status == "ERROR":
            trial.update_resources(self.request(trial.config))
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class Fifo(Avoiding, FIFOScheduler):
    """One trial after the other, none stopped early."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

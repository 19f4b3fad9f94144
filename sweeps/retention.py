"""Disk that does not grow with the number of trials: while a search runs, the best trials and trial 0 keep their checkpoints, one
that is overtaken loses its own (metrics stay); after it, `dmkd gc` looks at what is left."""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from dmkd.errors import SweepError
from sweeps.places import Places
from tracking.errors import TrackingError
from tracking.retention import Freeable, free, freeable

HEAVY = ("checkpoint", "state")
"""What a trial's folder holds beside its metrics."""
FIRST = "trial-0000"
"""Trial 0 keeps its checkpoint whatever its rank: it is what the others are compared with."""


@dataclass(frozen=True)
class Ended:
    """A trial of the search that was trained to its planned end."""

    key: str
    value: float
    """The objective, larger is better."""
    configuration: str
    """Equal for trials that are the same row."""


def overtaken(ended: Mapping[str, Ended], best: int) -> set[str]:
    """Keys of the trials that cannot be among the `best` rows any more: as many different rows are better."""
    kept: dict[str, str] = {}
    for trial in sorted(ended.values(), key=lambda one: (-one.value, one.key)):
        if len(kept) < best:
            kept.setdefault(trial.configuration, trial.key)
    return ended.keys() - set(kept.values()) - {FIRST}


class Retention(tune.Callback):
    """Tells `release` each key that is overtaken, once, from a thread of its own: the sweep never waits for the tracker."""

    def __init__(
        self,
        objective: str,
        epochs: int,
        best: int,
        ended: Mapping[str, Ended],
        *,
        name: Callable[[Any], str],
        release: Callable[[str], None],
    ) -> None:
        self.objective, self.epochs, self.best, self.name = objective, epochs, best, name
        self.ended, self.told, self.release = dict(ended), set[str](), release
        self.waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        """Tune keeps a copy of its callbacks for `Tuner.restore`, which is not used here: a copy does nothing."""
        return tune.Callback, ()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over: it, or one that it overtakes, may lose its checkpoint."""
        result, job = trial.last_result or {}, trial.config.get("run", trial.config)
        value = result.get(self.objective)
        if result.get("failed") or int(result.get("epoch", 0)) < self.epochs or value is None or not math.isfinite(value):
            return
        key = str(job["key"])
        self.ended[key] = Ended(key, float(value), self.name(job["values"]))
        for gone in sorted(overtaken(self.ended, self.best) - self.told):
            self.told.add(gone)
            self.waiting.put(gone)
        if not self.waiting.empty() and (self.thread is None or not self.thread.is_alive()):
            self.thread = threading.Thread(target=self._work, name="dmkd-retention", daemon=True)
            self.thread.start()

    def _work(self) -> None:
        while True:
            try:
                key = self.waiting.get(timeout=1)
            except queue.Empty:
                return
            with suppress(TrackingError, SweepError, OSError):  # `dmkd gc` finds what is left
                self.release(key)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Give the last deletions a while."""
        if self.thread is not None:
            self.thread.join(timeout=60)


def release(places: Places, key: str, experiment: str, sweep: str) -> None:
    """Take a finished trial's checkpoint from its folder and from the tracker. Raises `TrackingError` without a tracker."""
    from tracking.runs import find_run

    places.storage.amend(places.trials / key, drop=HEAVY)
    found = find_run(places.tracking_uri, experiment, f"{sweep}/{key}")
    if found is not None:
        free(places.tracking_uri, [found[0]])


def drop(folder: Path) -> int:
    """Delete the heavy part of a trial's folder; how many bytes that were."""
    freed = 0
    for name in HEAVY:
        freed += size(folder / name)
        shutil.rmtree(folder / name, ignore_errors=True)
    return freed


def size(folder: Path) -> int:
    """Bytes of the files below a folder; 0 where it is not, or where it goes away meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


@dataclass(frozen=True)
class Waste:
    """Something that can be deleted."""

    what: str
    """In words, with its place."""
    bytes: int
    delete: Callable[[], object]


def find_waste(storage: Path | str, uri: str, experiment: str | None = None) -> list[Waste]:
    """What no row and no registered version needs: checkpoints of runs, in the tracker and in `storage`; states of ended trials.

    `storage`: a folder, or an address in S3.

    A sweep that is not finished is left alone. Raises `TrackingError` without a tracker: what it needs is not known then.
    """
    runs = freeable(uri, experiment)
    waste = [_of_run(run, uri) for run in runs if run.bytes]
    needless = {run.key for run in runs}
    if "://" in str(storage):
        from sweeps.bucket.waste import waste_below

        return waste + [Waste(*found) for found in waste_below(str(storage), needless, HEAVY, experiment is None)]
    for record in sorted(Path(storage).glob("*/sweep.json")):
        waste += _of_sweep(record, needless, everything=experiment is None)
    return waste


def _of_run(run: Freeable, uri: str) -> Waste:
    return Waste(f"checkpoint of {run.name} in {run.experiment} (runs:/{run.run_id})", run.bytes, lambda: free(uri, [run.run_id]))


def _of_sweep(record: Path, needless: set[str], everything: bool) -> list[Waste]:
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        sweep, finished = str(told["id"]), bool(told["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not finished:
        return []
    waste = []
    for folder in sorted(path for path in (record.parent / "trials").glob("*") if path.is_dir()):
        heavy = HEAVY if f"{sweep}/{folder.name}" in needless else ("state",) * ((folder / "done.json").exists() and everything)
        waste += [_of_folder(folder / name) for name in heavy if (folder / name).is_dir()]
    leftover = record.parent / "ray"
    return waste + ([_of_folder(leftover)] if everything and leftover.is_dir() else [])


def _of_folder(folder: Path) -> Waste:
    return Waste(str(folder), size(folder), lambda: shutil.rmtree(folder, ignore_errors=True))

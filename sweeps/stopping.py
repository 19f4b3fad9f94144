"""When a trial, or the whole search, ends before its plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler

from sweeps.storage import MOUNTED, Storage
from sweeps.study import curve
from sweeps.unfit import Avoiding, Fifo

FEWEST = 3
"""Trials that a median is taken of."""


def stops(storage: Storage, folder: Path, trial: Any, epoch: int, epochs: int) -> bool:
    """Whether a trial that is to be stopped may be: not trial 0. Its worker finds a marker."""
    if trial.config["number"] == 0:
        return False
    storage.stop(folder / trial.config["key"], f"pruned after epoch {epoch} of {epochs}\n")
    return True


def judged(trial: Any) -> bool:
    """Whether early stopping looks at a run: at the first piece of a trial (for the others see `pieces.hopeless`)."""
    return not trial.config.get("piece")


def history(study: optuna.Study) -> tuple[dict[int, dict[int, float]], set[int]]:
    """{number: {epoch: score}} of a study's trials, and the numbers of those that have ended."""
    trials = study.get_trials(deepcopy=False)
    return {t.number: curve(t) for t in trials}, {t.number for t in trials if t.state.is_finished()}


class Asha(Avoiding, AsyncHyperBandScheduler):
    """Asynchronous successive halving over epochs: trial 0 is never stopped, and the rungs of an earlier driver are kept.

    The first rung is `grace` epochs; a trial that is stopped finds a marker.
    """

    def __init__(
        self,
        study: optuna.Study,
        folder: Path,
        *,
        metric: str,
        grace: int,
        epochs: int,
        reduction: float = 3,
        storage: Storage = MOUNTED,
    ) -> None:
        super().__init__("epoch", metric, "max", max_t=epochs, grace_period=grace, reduction_factor=reduction)
        self._folder, self._storage = folder, storage
        self._history, ended = history(study)
        for number in ended:
            self._refill(number, f"study-{number}")

    def _refill(self, number: int, name: str) -> None:
        for milestone, recorded in self._brackets[0]._rungs:
            beyond = [step for step in self._history.get(number, {}) if step >= milestone]
            if beyond:
                recorded[name] = self._history[number][min(beyond)]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial that goes on keeps the rungs that it already passed."""
        if judged(trial):
            super().on_trial_add(tune_controller, trial)
            self._refill(trial.config["number"], trial.trial_id)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """As ASHA decides, but trial 0 always goes on."""
        if not judged(trial):
            return str(self.CONTINUE)
        action = str(super().on_trial_result(tune_controller, trial, result))
        if action != self.STOP or result.get("failed") or result["epoch"] >= self._max_t:
            return action
        return action if stops(self._storage, self._folder, trial, result["epoch"], self._max_t) else str(self.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The last value counts for its rung."""
        if judged(trial):
            super().on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial that was never begun."""
        if judged(trial):
            super().on_trial_remove(tune_controller, trial)


class MedianRule(Fifo):
    """Stop a trial whose mean so far lies below the median of the others' means up to the same epoch, from `grace` epochs on."""

    def __init__(
        self,
        study: optuna.Study,
        folder: Path,
        *,
        metric: str,
        grace: int,
        epochs: int,
        storage: Storage = MOUNTED,
    ) -> None:
        super().__init__()
        self._storage = storage
        self._folder, self._score, self._grace, self._epochs = folder, metric, grace, epochs
        self._curves, _ = history(study)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        value, epoch, number = result.get(self._score), int(result.get("epoch", 0)), trial.config["number"]
        if not judged(trial) or value is None or result.get("failed"):
            return str(self.CONTINUE)
        self._curves.setdefault(number, {})[epoch] = float(value)
        if not self._grace <= epoch < self._epochs:
            return str(self.CONTINUE)
        means = [_mean(one, epoch) for other, one in self._curves.items() if other != number and any(e >= epoch for e in one)]
        if len(means) < FEWEST or _mean(self._curves[number], epoch) >= median(means):
            return str(self.CONTINUE)
        return str(self.STOP if stops(self._storage, self._folder, trial, epoch, self._epochs) else self.CONTINUE)


def _mean(points: dict[int, float], until: int) -> float:
    known = [value for epoch, value in points.items() if epoch <= until]
    return sum(known) / len(known)


@dataclass(frozen=True)
class Budget:
    """How long a sweep may take, and what its final stage needs of it."""

    started: float
    """`time.monotonic()` at its begin."""
    hours: float | None = None
    gpu_hours: float | None = None
    share: float = 0.0
    """GPUs of a run."""
    waves: int = 0
    """Rounds of the final stage, each of the length of a trial."""
    runs: int = 0
    """Runs of the final stage."""
    before: float = 0.0
    """GPU-seconds that were spent before the search (the teacher)."""

    def closed(self, longest: float, spent: float) -> bool:
        """Whether no further trial fits, when the longest took `longest` seconds and all runs together `spent`."""
        wall = time.monotonic() - self.started + (1 + self.waves) * longest
        gpu = self.before + self.share * (spent + (1 + self.runs) * longest)
        late = self.hours is not None and wall > self.hours * 3600
        return late or (self.gpu_hours is not None and gpu > self.gpu_hours * 3600)


SCHEDULERS: dict[str, Callable[..., Any]] = {"asha": Asha, "median": MedianRule}
"""`--early-stopping` -> a maker `(study, folder, metric=, grace=, epochs=)`."""

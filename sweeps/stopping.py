"""When a trial, or the whole search, ends before its plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler

from sweeps.trial import STOPPED


class Asha(AsyncHyperBandScheduler):
    """Asynchronous successive halving over epochs: trial 0 is never stopped, and the rungs of an earlier driver are kept.

    The first rung is `grace` epochs; a trial that is stopped finds the marker file `STOPPED` in its folder.
    """

    def __init__(self, study: optuna.Study, folder: Path, *, metric: str, grace: int, epochs: int, reduction: float = 3) -> None:
        super().__init__("epoch", metric, "max", max_t=epochs, grace_period=grace, reduction_factor=reduction)
        self._folder = folder
        self._history = {t.number: dict(t.intermediate_values) for t in study.get_trials(deepcopy=False)}
        going = {t.number for t in study.get_trials(deepcopy=False) if not t.state.is_finished()}
        for number in self._history.keys() - going:
            self._refill(number, f"study-{number}")

    def _refill(self, number: int, name: str) -> None:
        for milestone, recorded in self._brackets[0]._rungs:
            beyond = [step for step in self._history.get(number, {}) if step >= milestone]
            if beyond:
                recorded[name] = self._history[number][min(beyond)]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial that goes on keeps the rungs that it already passed."""
        super().on_trial_add(tune_controller, trial)
        self._refill(trial.config["number"], trial.trial_id)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """As ASHA decides, but trial 0 always goes on."""
        action = str(super().on_trial_result(tune_controller, trial, result))
        if action != self.STOP or result.get("failed") or result["epoch"] >= self._max_t:
            return action
        if trial.config["number"] == 0:
            return str(self.CONTINUE)
        marker = self._folder / trial.config["key"] / STOPPED
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"pruned after epoch {result['epoch']} of {self._max_t}\n")
        return action


def time_is_up(started: float, hours: float | None, waves: int) -> Callable[[float], bool]:
    """Whether `hours` leave no room for one more trial and for `waves` rounds of the final stage of the length of a trial."""

    def closed(seconds: float) -> bool:
        return hours is not None and time.monotonic() - started + (1 + waves) * seconds > hours * 3600

    return closed

"""What a person sees while a stage runs: a line for each finished trial, and one live line in a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from ray import tune


class Progress(tune.Callback):
    """Prints to standard error; quiet in a log file but for the line of each finished trial."""

    def __init__(self, stage: str, total: float, objective: str) -> None:
        self.stage, self.total, self.objective = stage, total, objective
        self.started, self.done = time.monotonic(), 0
        self.best: tuple[float, str] = (-1.0, "")
        self.live = sys.stderr.isatty()
        self.running: dict[str, str] = {}
        self.died: set[str] = set()
        """Keys of the trials whose worker died for good."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial began."""
        self.running[trial.trial_id] = f"{_label(trial)} ..."
        self._draw()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """An epoch is done."""
        score = result.get(self.objective)
        self.running[trial.trial_id] = f"{_label(trial)} epoch {result.get('epoch', 0)}" + (
            f" {score:.3f}" if score is not None else ""
        )
        self._draw()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over: its line."""
        result = trial.last_result or {}
        self._finished(trial, f"failed: {result['failed']}" if result.get("failed") else _scores(result, self.objective))
        score = result.get(self.objective)
        if score is not None and score > self.best[0]:
            self.best = (score, _label(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died for good."""
        self.died.add(_key(trial))
        self._finished(trial, "failed: the worker process died")

    def _finished(self, trial: Any, text: str) -> None:
        self.done += 1
        self.running.pop(trial.trial_id, None)
        self._clear()
        print(f"  {self.stage} {self.done}/{self.total:g}  {_label(trial)}  {text}", file=sys.stderr, flush=True)
        self._draw()

    def _clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", file=sys.stderr)

    def _draw(self) -> None:
        if not self.live:
            return
        spent = time.monotonic() - self.started
        left = f"about {spent / self.done * (self.total - self.done) / 60:.0f} min left" if self.done else f"{spent:.0f} s"
        best = f"  best {self.best[0]:.3f} ({self.best[1]})" if self.best[1] else ""
        line = f"  {self.stage} {self.done}/{self.total}{best}  {left}  | " + " | ".join(self.running.values())
        print("\r\033[K" + line[: shutil.get_terminal_size().columns - 1], end="", file=sys.stderr, flush=True)


def _key(trial: Any) -> str:
    return str(trial.config.get("run", trial.config)["key"])


def _label(trial: Any) -> str:
    """ "trial 3", or "undistilled, seed 1": what the leaderboard and the tracker call it."""
    job = trial.config.get("run", trial.config)
    label = str(job["tags"].get("dmkd.label", job["key"]))
    return f"{label}, seed {job['values']['seed']}" if "seed" in job["values"] else label


def _scores(result: dict[str, Any], objective: str) -> str:
    name = objective if objective in result else objective.replace("val", "test", 1)
    score = f"{name} {result[name]:.4f}" if name in result else "no score"
    return f"epoch {result.get('epoch', 0)}  {score}  {result.get('time_total_s', 0):.0f} s"

"""What a person sees while a stage runs: a line for each finished trial, and one live table in a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from typing import Any

from ray import tune


@dataclass
class _Row:
    """A run that is going on."""

    label: str
    started: float
    epoch: int = 0
    score: float | None = None


class Progress(tune.Callback):
    """Prints to standard error; quiet in a log file but for the line of each finished trial."""

    def __init__(self, stage: str, total: float, objective: str) -> None:
        self.stage, self.total, self.objective = stage, total, objective
        self.started, self.done = time.monotonic(), 0
        self.best: tuple[float, str] = (-1.0, "")
        self.live = sys.stderr.isatty()
        self.rows: dict[str, _Row] = {}
        self.died: set[str] = set()
        """Keys of the trials whose worker died for good."""
        self._drawn = 0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial began."""
        self.rows[trial.trial_id] = _Row(_label(trial), time.monotonic())
        self._draw()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """An epoch is done."""
        row = self.rows.setdefault(trial.trial_id, _Row(_label(trial), time.monotonic()))
        row.epoch, row.score = int(result.get("epoch", 0)), result.get(self.objective, row.score)
        self._draw()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over: its line."""
        result = trial.last_result or {}
        score = result.get(self.objective)
        if score is not None and score > self.best[0]:
            self.best = (score, _label(trial))
        self._finished(trial, f"failed: {result['failed']}" if result.get("failed") else _scores(result, self.objective))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died for good."""
        self.died.add(_key(trial))
        self._finished(trial, "failed: the worker process died")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Nothing is left of the table."""
        self._clear()

    def table(self, width: int) -> list[str]:
        """The live table in lines: a head with what is done, the best so far and the time left, then a line a running trial."""
        spent = time.monotonic() - self.started
        left = f"about {_minutes(spent / self.done * (self.total - self.done))} left" if self.done else f"{spent:.0f} s so far"
        best = f"best {self.best[0]:.4f} ({self.best[1]})" if self.best[1] else "no score yet"
        lines = [f"  {self.stage}: {self.done} of {self.total:g} done   {best}   {left}"]
        lines += [f"  {'trial':24} {'epoch':>5}  {self.objective:>20}  {'for':>7}"] if self.rows else []
        for row in self.rows.values():
            score = "" if row.score is None else f"{row.score:.4f}"
            lines.append(f"  {row.label[:24]:24} {row.epoch:5d}  {score:>20}  {_minutes(time.monotonic() - row.started):>7}")
        return [line[: width - 1] for line in lines]

    def _finished(self, trial: Any, text: str) -> None:
        self.done += 1
        self.rows.pop(trial.trial_id, None)
        self._clear()
        print(f"  {self.stage} {self.done}/{self.total:g}  {_label(trial)}  {text}", file=sys.stderr, flush=True)
        self._draw()

    def _clear(self) -> None:
        """Remove the table: up to its first line, then everything below."""
        if self._drawn:
            print(f"\033[{self._drawn}A\r\033[J", end="", file=sys.stderr, flush=True)
        self._drawn = 0

    def _draw(self) -> None:
        if not self.live:
            return
        self._clear()
        size = shutil.get_terminal_size()
        lines = self.table(size.columns)[: size.lines - 1]
        print("\n".join(lines), file=sys.stderr, flush=True)
        self._drawn = len(lines)


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _key(trial: Any) -> str:
    return str(trial.config.get("run", trial.config)["key"])


def _label(trial: Any) -> str:
    """ "trial 3", "trial 3, fold 1, seed 0" or "undistilled, seed 1": what the leaderboard and the tracker call it."""
    job = trial.config.get("run", trial.config)
    label = str(job["tags"].get("dmkd.label", job["key"]))
    if "dmkd.piece" in job["tags"]:
        return f"{label}, {job['tags']['dmkd.piece']}"
    return f"{label}, seed {job['values']['seed']}" if "seed" in job["values"] else label


def _scores(result: dict[str, Any], objective: str) -> str:
    name = objective if objective in result else objective.replace("val", "test", 1)
    score = f"{name} {result[name]:.4f}" if name in result else "no score"
    return f"epoch {result.get('epoch', 0)}  {score}  {result.get('time_total_s', 0):.0f} s"

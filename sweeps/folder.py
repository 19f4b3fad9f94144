"""What a trial keeps in its folder on the storage, and how it is written: by one worker at a time, whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracking.places import write_text

STOPPED = "stopped-early"
"""Marker file in a trial's folder: the scheduler stopped it, it was not interrupted."""

DONE = "done.json"
"""Written when a run is over: `{"status", "reason", "metrics"}`. A run that has it is not repeated."""

PROGRESS = "progress.json"
HISTORY = "history.jsonl"
"""One epoch a line: `{"step", "time", "metrics"}`, as they were sent to the tracker."""


def read_done(folder: Path) -> dict[str, Any] | None:
    """How a run ended, or None where it has not."""
    path = folder / DONE
    done: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return done


def write_done(folder: Path, status: str, reason: str, metrics: dict[str, Any]) -> None:
    """Note that a run is over."""
    write_text(folder / DONE, json.dumps({"status": status, "reason": reason, "metrics": metrics}))


def read_progress(folder: Path) -> dict[str, Any]:
    """`{"epoch", "metrics", "best", "history"}` after the last epoch; empty where there was none."""
    path = folder / PROGRESS
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def progressed(before: dict[str, Any], epoch: int, metrics: dict[str, float], value: float | None, best: Any) -> dict[str, Any]:
    """The progress after an epoch; `value` is the objective's, in `history` once an epoch."""
    finite = {key: number for key, number in metrics.items() if math.isfinite(number)}
    history = [point for point in before["history"] if point[0] < epoch]
    history += [[epoch, value]] if value is not None else []
    return {"epoch": epoch, "metrics": finite, "best": best, "history": history}


def write_progress(folder: Path, progress: dict[str, Any]) -> None:
    """Replace the progress."""
    write_text(folder / PROGRESS, json.dumps(progress))


def add_history(folder: Path, step: int, time_ms: int, metrics: dict[str, float]) -> None:
    """Note an epoch's metrics with the stamp that they are logged with."""
    line = json.dumps({"step": step, "time": time_ms, "metrics": metrics}) + "\n"
    path = folder / HISTORY
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * bool(torn) + line)


def read_history(folder: Path, upto: int) -> Iterator[dict[str, Any]]:
    """The epochs up to a step, each as it was first logged; the torn line of a killed worker is left out."""
    path, told = folder / HISTORY, set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            epoch = json.loads(line)
        except ValueError:
            continue
        if epoch["step"] <= upto and epoch["step"] not in told:
            told.add(epoch["step"])
            yield epoch

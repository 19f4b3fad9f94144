"""What a trial keeps in its folder on the storage, and how it is written: by one worker at a time, whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.errors import CheckpointError
from tracking.places import write_text
from tracking.spool import now_ms

if TYPE_CHECKING:
    from dmkd.checkpoint import State
    from dmkd.config import Config
    from dmkd.trainer import Epoch
    from tracking.runs import Run

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
    write_text(folder / DONE, ended(status, reason, metrics))


def ended(status: str, reason: str, metrics: dict[str, Any]) -> str:
    """What `DONE` holds."""
    return json.dumps({"status": status, "reason": reason, "metrics": metrics})


def read_progress(folder: Path) -> dict[str, Any]:
    """`{"epoch", "metrics", "best", "history"}` after the last epoch; empty where there was none."""
    path = folder / PROGRESS
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def add_progress(
    folder: Path, before: dict[str, Any], epoch: int, metrics: dict[str, float], *, value: float | None, best: Any
) -> dict[str, Any]:
    """The progress after an epoch, written; `value` is the objective's, in `history` once an epoch."""
    # What the model costs is measured once, and is an objective in the last epoch too.
    finite = {key: number for key, number in before["metrics"].items() if key.startswith("model/")}
    finite |= {key: number for key, number in metrics.items() if math.isfinite(number)}
    history = [point for point in before["history"] if point[0] < epoch]
    history += [[epoch, value]] if value is not None else []
    progress = {"epoch": epoch, "metrics": finite, "best": best, "history": history}
    write_progress(folder, progress)
    return progress


def write_progress(folder: Path, progress: dict[str, Any]) -> None:
    """Replace the progress."""
    write_text(folder / PROGRESS, json.dumps(progress))


def keep_best(folder: Path, epoch: Epoch, settings: Config, objective: str, best: Any) -> bool:
    """Keep network and outcomes of an epoch that is the best so far; whether it is."""
    from dmkd.run import is_better, save_checkpoint, write_all_outcomes

    if not is_better(epoch, objective, best):
        return False
    save_checkpoint(epoch, settings, folder / "checkpoint")
    write_all_outcomes(epoch, settings, folder / "evaluation")
    return True


def add_history(folder: Path, step: int, metrics: dict[str, float]) -> int:
    """Note an epoch's metrics; the stamp to log them with, which is later than any before it, whatever the clocks say."""
    path = folder / HISTORY
    stamp: int = max([now_ms(), *(epoch["time"] + 1 for epoch in _epochs(folder))])
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * bool(torn) + json.dumps({"step": step, "time": stamp, "metrics": metrics}) + "\n")
    return stamp


def read_history(folder: Path, upto: int) -> list[dict[str, Any]]:
    """The epochs up to a step, each as it was first logged."""
    first: dict[int, dict[str, Any]] = {}
    for epoch in _epochs(folder):
        if epoch["step"] <= upto:
            first.setdefault(epoch["step"], epoch)
    return list(first.values())


def _epochs(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line but the torn one of a killed worker."""
    path = folder / HISTORY
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with suppress(ValueError):
            yield json.loads(line)


def resumed(folder: Path, run: Run, epoch: int) -> State | None:
    """Where a trial goes on, if anywhere; its run says so where it is not from `epoch`, and gets again what it may lack."""
    from dmkd.checkpoint import load_state

    try:
        state = load_state(folder / "state") if (folder / "state").exists() else None
    except CheckpointError as error:  # killed while its first state was written, or every state is damaged
        run.set_tags({"dmkd.resume": f"started afresh: {error}"})
        return None
    if state is not None:
        note = f"from epoch {state.epoch}" + (f", not {epoch}: {state.damage}" if state.damage else "")
        run.set_tags({"dmkd.resume": note})
        for known in read_history(folder, state.epoch):
            run.log(known["metrics"], known["step"], known["time"])
    return state

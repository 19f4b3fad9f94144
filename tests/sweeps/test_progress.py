"""What a person sees: a table in a terminal, lines in a log file. Tune's calls are played, the terminal is a real one (a pty)."""

from __future__ import annotations

import os
import pty
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest

from sweeps.progress import Progress

METRIC = "val/recall_at_1"


def trial(number, last=None, piece=""):
    tags = {"dmkd.label": f"trial {number}"} | ({"dmkd.piece": piece} if piece else {})
    return SimpleNamespace(trial_id=str(number), config={"key": f"t{number}", "tags": tags, "values": {}}, last_result=last)


def play(progress):
    progress.on_trial_start(0, [], trial(0))
    progress.on_trial_start(0, [], trial(1, piece="fold 2, seed 0"))
    progress.on_trial_result(0, [], trial(0), {"epoch": 1, METRIC: 0.25})
    progress.on_trial_result(0, [], trial(1), {"epoch": 3, METRIC: 0.125})
    progress.on_trial_complete(0, [], trial(0, {"epoch": 4, METRIC: 0.5, "time_total_s": 7.0}))


def test_a_log_file_gets_one_line_a_finished_trial(capsys: pytest.CaptureFixture[str]):
    progress = Progress("search", 4, METRIC)
    play(progress)
    progress.on_trial_complete(0, [], trial(1, {"failed": "TrainingError: nan in epoch 2, batch 3"}, piece="fold 2, seed 0"))
    assert capsys.readouterr().err.splitlines() == [
        "  search 1/4  trial 0  epoch 4  val/recall_at_1 0.5000  7 s",
        "  search 2/4  trial 1, fold 2, seed 0  failed: TrainingError: nan in epoch 2, batch 3",
    ]


def test_the_table_has_trial_epoch_score_best_and_time_left():
    progress = Progress("search", 4, METRIC)
    play(progress)
    head, columns, row = progress.table(120)
    assert "1 of 4 done" in head
    assert "best 0.5000 (trial 0)" in head
    assert "left" in head
    assert columns.split() == ["trial", "epoch", METRIC, "for"]
    assert row.split()[:8] == ["trial", "1,", "fold", "2,", "seed", "0", "3", "0.1250"]
    assert all(len(line) < 40 for line in progress.table(40))


def everything(terminal: int) -> str:
    """What was written to a terminal that its writer has closed: a single read may find a part of it."""
    parts: list[bytes] = []
    with suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    return b"".join(parts).decode()


def test_a_terminal_shows_one_table_that_is_drawn_over(monkeypatch: pytest.MonkeyPatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress("search", 4, METRIC)
        assert progress.live
        play(progress)
        progress.on_experiment_end([])
    shown = everything(ours)
    os.close(ours)
    screen: list[str] = []
    for written in shown.replace("\r\n", "\n").split("\n"):  # a terminal that knows two sequences: up, and clear below
        *ups, text = written.split("A\r\033[J")
        for up in ups:
            del screen[len(screen) - int(up.removeprefix("\033[")) :]
        screen.append(text)
    assert [line for line in screen if line] == ["  search 1/4  trial 0  epoch 4  val/recall_at_1 0.5000  7 s"]

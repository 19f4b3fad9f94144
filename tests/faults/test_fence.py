"""No two writers of one trial: the late one finds a greater token and stops."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmkd.errors import SweepError
from sweeps import fence as fences
from sweeps.attempts import DEATHS, WORDLESS, Attempts
from sweeps.fence import Fence, Superseded
from sweeps.folder import write_progress
from tests.faults.processes import python
from tracking.heartbeat import read_beat


def test_the_late_one_stops(tmp_path: Path) -> None:
    first = Fence.take(tmp_path / "trial")
    with first.writing():
        assert first.mine()
    second = Fence.take(tmp_path / "trial")
    assert second.token > first.token
    with pytest.raises(Superseded, match="another worker continues"), first.writing():
        raise AssertionError("written")
    with second.writing():
        pass


def take_often(folder: Path, tokens: multiprocessing.SimpleQueue[int]) -> None:
    for _ in range(25):
        tokens.put(Fence.take(folder).token)


def test_takers_that_race_all_get_tokens_of_their_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    tokens: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    takers = [context.Process(target=take_often, args=(tmp_path, tokens)) for _ in range(4)]
    for taker in takers:
        taker.start()
    found = [tokens.get() for _ in range(100)]
    for taker in takers:
        taker.join()
    assert sorted(found) == list(range(1, 101))


FROZEN = (
    "import sys, time\nfrom pathlib import Path\nfrom sweeps.fence import Fence\nfolder = Path(sys.argv[1])\n"
    "with Fence.take(folder).writing():\n    print('in', flush=True)\n    time.sleep(120)\n    (folder / 'late').touch()\n"
)


def test_a_writer_that_is_frozen_in_the_middle_of_a_write_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with python(FROZEN, tmp_path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with monkeypatch.context() as patch:  # as seen from another machine, which cannot end it
            patch.setattr(fences, "process_lives", lambda holder: None)
            with pytest.raises(SweepError, match="holds it in the middle of a write"):
                Fence.take(tmp_path, patience=0.2)
        taken = Fence.take(tmp_path, patience=0.2)
        assert process.wait(10) == -signal.SIGKILL
    assert taken.mine()
    assert not (tmp_path / "late").exists()


def test_deaths_without_progress_end_a_trial_and_those_with_it_do_not(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    for epoch in range(10):  # killed once an epoch: it gets on
        write_progress(tmp_path, {"epoch": epoch})
        assert attempts.begin("driver") == ""
    assert attempts.begin("driver") == "", f"{DEATHS} deaths in this epoch"
    refusal = attempts.begin("driver")
    assert WORDLESS in refusal
    assert "epoch 10" in refusal
    assert attempts.begin("another driver") == "", "--resume tries again"


def test_a_hang_is_retried_once_and_a_clean_exit_is_no_death(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    assert attempts.begin("driver") == ""
    write_progress(tmp_path, {"epoch": 3})
    attempts.died("no batch was done for 5 s")
    assert attempts.begin("driver") == ""
    for _ in range(5):  # preempted, again and again
        attempts.ended()
        assert attempts.begin("driver") == ""
    attempts.died("no batch was done for 5 s")
    assert "no batch was done" in attempts.begin("driver")


def test_the_watchdog_ends_what_stands_still_and_says_where(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom dmkd import pulse\nfrom sweeps.attempts import Attempts\n"
        "from sweeps.watch import Watchdog\nfolder = Path(sys.argv[1])\n"
        "Attempts(folder).begin('d')\ndog = Watchdog(folder, 1.0)\n"
        "time.sleep(2)\n"  # outside of work: a worker between two trials
        "with dog.working():\n"
        "    for _ in range(20):\n        pulse.beat()\n        time.sleep(0.1)\n"
        "    print('working', flush=True)\n    hang = lambda: time.sleep(60)\n    hang()\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "working\n"), done.stderr
    assert "ends itself" in done.stderr
    assert time.monotonic() - began < 40
    noted = (tmp_path / "hung.txt").read_text()
    assert "in <lambda>" in noted, "the stack of the thread that hangs"
    deaths = (read_beat(tmp_path / "attempts.json") or {})["deaths"]
    assert deaths[0][0] == 0
    assert "no batch was done for 1 s" in deaths[0][1]

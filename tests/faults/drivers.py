"""A small sweep in a driver of its own, as a user starts it, and hands that reach its workers."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil

from sweeps.folder import read_done
from tests.sweeps.test_interruptions import Driver, end, wait_for
from tracking.heartbeat import read_beat

__all__ = ["SmallDriver", "end", "wait_for"]


class SmallDriver(Driver):
    """`trials` points of a grid, one seed, `epochs` epochs of `steps` steps, about a second for 24; nothing is stopped early."""

    def __init__(self, folder: Path, pictures: Path, trials: int = 4, epochs: int = 5, steps: int = 24) -> None:
        super().__init__(folder, pictures)
        text = (folder / "script.py").read_text()
        text = re.sub(r"epochs=6", f"epochs={epochs}", text)
        text = re.sub(r"iterations=8", f"iterations={steps}", text)
        text = re.sub(r"space = .*", f"space = {{'optim.lr': Choice(tuple(1e-3 + 1e-5 * n for n in range({trials})))}}", text)
        text = text.replace("import Range\n", "import Choice\n").replace("lr=1e-3", "lr=0.001")
        text = text.replace("trials=3, seeds=2, finalists=1, references=('untrained',)", "")
        text = re.sub(r"trials=3, seeds=2.*", f"trials={trials}, seeds=1, finalists=1, references=(), sampler='grid')", text)
        (folder / "script.py").write_text(text)

    def trial(self, number: int) -> Path:
        return self.out / "trials" / f"trial-{number:04d}"

    def worker(self, number: int) -> int:
        """The process that writes a trial now."""
        return int((read_beat(self.trial(number) / "writer.json") or {})["pid"])

    def token(self, number: int) -> int:
        """How many workers have taken a trial so far."""
        return int((read_beat(self.trial(number) / "writer.json") or {}).get("token", 0))

    def at_work(self, number: int, epoch: int) -> None:
        """Wait until a trial has done so many epochs, and is in the middle of the next."""
        wait_for(lambda: self.epoch(f"trial-{number:04d}") >= epoch, 600)
        assert read_done(self.trial(number)) is None, "it was over before it could be disturbed"

    def signal(self, number: int, what: signal.Signals) -> int:
        """Send a signal to a trial's worker, and to nothing else."""
        pid = self.worker(number)
        os.kill(pid, what)
        return pid

    def log(self) -> str:
        return (self.folder / "log").read_text()


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

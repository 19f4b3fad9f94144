"""Watching over a trial from inside: a worker that does nothing ends itself."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dmkd import pulse
from dmkd.errors import SweepError
from sweeps.attempts import Attempts
from tracking.heartbeat import HEARTBEAT, Heart

SILENCE = 900.0
"""Seconds without a batch after which a trial counts as hung."""


def silence() -> float:
    """`$DMKD_SILENCE` seconds, else `SILENCE`."""
    return float(os.environ.get("DMKD_SILENCE") or SILENCE)


class Watchdog(threading.Thread):
    """Ends this process where work stands still for `seconds`; while it lives, a heartbeat lies in the trial's folder."""

    def __init__(
        self,
        folder: Path,
        seconds: float,
        end: Callable[[], None] = lambda: os._exit(1),
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.folder, self.seconds, self._end, self._keep = folder, seconds, end, keep
        self.heart = Heart(folder / HEARTBEAT)
        self._working, self._over = False, threading.Event()
        self._count, self._since = -1, time.monotonic()
        self.start()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside, standing still is an error."""
        self._count, self._working = -1, True
        try:
            yield
        finally:
            self._working = False

    def run(self) -> None:
        """Look until stopped."""
        while not self._over.wait(min(5.0, self.seconds / 5)):
            if not self._working or pulse.count() != self._count:
                self._count, self._since = pulse.count(), time.monotonic()
            elif time.monotonic() - self._since > self.seconds:
                self._give_up()
                return

    def _give_up(self) -> None:
        """Note the reason and where every thread stood, and end the process: what hangs cannot be asked to leave."""
        Attempts(self.folder).died(
            f"no batch was done for {self.seconds:g} s (hung; its stacks are in {self.folder / 'hung.txt'})"
        )
        with suppress(OSError), (self.folder / "hung.txt").open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file)
        with suppress(SweepError):
            self._keep()
        print(f"dmkd: {self.folder.name}: no batch was done for {self.seconds:g} s, the worker ends itself", file=sys.stderr)
        self._end()

    def stop(self) -> None:
        """The trial is over, or leaves this process."""
        self._over.set()
        self.heart.stop()

"""SIGTERM: the notice of a preemption, of a scheduler's end, or of `ray job stop`. There are seconds left, not minutes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACE = 20.0
"""Seconds that a worker takes itself at most to finish an epoch that is nearly over; clouds give 30 s and more."""


class Terminated(BaseException):
    """The driver was told to end."""


class Preempted(BaseException):
    """The worker was told to end, in the middle of an epoch that will not be over in time."""


def grace() -> float:
    """`$DMKD_GRACE` seconds, else `GRACE`."""
    return float(os.environ.get("DMKD_GRACE") or GRACE)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` in the main thread. Ray installs a handler of its own: begin after `ray.init`."""

    def told(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the leaving
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Notice:
    """SIGTERM in a worker: an epoch that ends within the grace time is finished, any other is left at once."""

    def __init__(self) -> None:
        self.given = False
        """Whether it is time to leave."""
        self._inside, self._began, self._lasts = False, 0.0, float("inf")
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            signal.signal(signal.SIGTERM, self._told)
            signal.signal(signal.SIGALRM, self._told)

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Inside, the notice may raise `Preempted`; what is written outside is never torn."""
        self._began, self._inside = time.monotonic(), True
        try:
            if self.given:
                raise Preempted
            yield
            self._lasts = time.monotonic() - self._began
        finally:
            self._inside = False
            if self._handles:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _told(self, number: int, frame: Any) -> None:
        self.given = True
        if not self._inside:
            return
        left = self._began + self._lasts - time.monotonic()
        if number == signal.SIGTERM and 0 <= left < grace():
            signal.setitimer(signal.ITIMER_REAL, grace())
        else:
            raise Preempted

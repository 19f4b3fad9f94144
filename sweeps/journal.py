"""Optuna's journal file, synced to the disk once for all that is written of a trial at one moment, instead of once a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

_written: ContextVar[set[str] | None] = ContextVar("written", default=None)
"""Journals with lines that the disk may not have yet; None: each line is synced as it is written."""


class Journal(JournalFileBackend):
    """A `JournalFileBackend` that knows `synced_once`. `path`: of the journal."""

    def __init__(self, path: str) -> None:
        super().__init__(path, JournalFileSymlinkLock(path))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines, as any reader sees at once; within `synced_once` the disk has them only at its end."""
        written = _written.get()
        if written is None:
            return super().append_logs(logs)
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        lock = JournalFileSymlinkLock(self.path)
        lock.acquire()
        try:
            with open(self.path, "ab") as file:
                file.write(lines.encode())
        finally:
            lock.release()
        written.add(self.path)
        return None


@contextmanager
def synced_once() -> Iterator[None]:
    """What is written to journals within is on the disk when this ends. A decorator too.

    A process that dies in between loses nothing; a machine that does may lose what it had not yet handed out or heard.
    """
    if _written.get() is not None:
        yield
        return
    written: set[str] = set()
    token = _written.set(written)
    try:
        yield
    finally:
        _written.reset(token)
        for path in written:
            with open(path, "ab") as file:
                os.fsync(file.fileno())

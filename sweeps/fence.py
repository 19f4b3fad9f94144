"""One writer of a trial: a fencing token that every new attempt raises, and every write asks for.

A worker that was cut off, or frozen, may wake up while another continues its trial. It finds a greater token than its own and
stops. Token and files are looked at and written under one lock, so that nothing comes in between.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dmkd.errors import SweepError
from tracking.errors import TrackingError
from tracking.heartbeat import identity, process_lives, read_beat
from tracking.places import locked, write_text

TOKEN = "writer.json"
LOCK = "writer.lock"


class Superseded(SweepError):
    """Another worker continues this trial."""


class Away(SweepError):
    """The storage does not answer, or refuses what a worker needs."""


class Fence:
    """The right to write a trial's folder. Made by `take`."""

    def __init__(self, folder: Path, token: int) -> None:
        self.folder, self.token = folder, token

    @classmethod
    def take(cls, folder: Path, patience: float = 60.0) -> Fence:
        """Take the trial over: from now on an earlier holder writes nothing.

        One that is frozen in the middle of a write is killed after `patience` seconds where it can be reached. Raises
        `SweepError` where it lives on another machine.
        """
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return cls._raise(folder, patience)
        except TrackingError:
            _end_holder(read_beat(folder / TOKEN) or {}, folder)
            return cls._raise(folder, patience)

    @classmethod
    def _raise(cls, folder: Path, patience: float) -> Fence:
        with locked(folder / LOCK, patience):
            token = 1 + int((read_beat(folder / TOKEN) or {}).get("token", 0))
            write_text(folder / TOKEN, json.dumps(identity() | {"token": token}))
        return cls(folder, token)

    def mine(self) -> bool:
        """Whether nobody has taken the trial over. A folder that is gone is nobody's."""
        return (read_beat(self.folder / TOKEN) or {}).get("token") == self.token

    def allowed(self) -> bool:
        """The same, for the thread that sends to the tracker."""
        return self.mine()

    def keep(self) -> None:
        """What another thread than the trial's has written is to stay, though the process ends."""

    def close(self) -> None:
        """The trial is over, or leaves this process."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the trial's folder for a write. Raises `Superseded` where another worker has it now."""
        with locked(self.folder / LOCK, timeout=600):
            if not self.mine():
                raise Superseded(f"{self.folder.name}: another worker continues this trial; this one stops")
            yield


def _end_holder(holder: dict[str, Any], folder: Path) -> None:
    if process_lives(holder) is not True:
        raise SweepError(
            f"{folder}: a worker on another machine ({holder.get('machine', '?')}) holds it in the middle of a write"
        )
    with suppress(ProcessLookupError):
        os.kill(int(holder["pid"]), signal.SIGKILL)

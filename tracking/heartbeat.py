"""Heartbeats: who still lives, told without a common clock and without the tracker.

A heartbeat is a small file beside what its process writes: who it is, and a number that grows. On the writer's own machine the
process itself is looked up; from elsewhere it is alive while the number grows on the *looker's* clock, or while the file is young
on the file system's own clock. A clock that is set back or forward, or apart from another machine's, changes neither.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from tracking.places import state_folder, write_text

HEARTBEAT = "heartbeat.json"
LONGEST = 30.0
"""Seconds between two beats at most."""
MISSED = 3
"""So many beats without a sign, and a process counts as dead."""


def interval() -> float:
    """Seconds between two beats: `$DMKD_HEARTBEAT`, 30 at most (and by default)."""
    return min(LONGEST, max(0.05, float(os.environ.get("DMKD_HEARTBEAT") or LONGEST)))


def lost_after() -> float:
    """Seconds of silence after which a process counts as dead."""
    return MISSED * interval()


@cache
def machine() -> str:
    """This machine since it was started: host name and boot, so that a process number means something."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return socket.gethostname()


def born(pid: int) -> str:
    """When a process of this machine began, in ticks since the boot; empty where there is none (or only its remains)."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""


def identity() -> dict[str, Any]:
    """Who this process is."""
    return {"machine": machine(), "pid": os.getpid(), "born": born(os.getpid())}


def process_lives(sign: dict[str, Any]) -> bool | None:
    """Whether the process of a heartbeat lives; None where it ran on another machine."""
    if sign.get("machine") != machine():
        return None
    return bool(sign.get("born")) and born(int(sign["pid"])) == sign["born"]


def read_beat(path: Path) -> dict[str, Any] | None:
    """What a heartbeat file says, or None."""
    with suppress(OSError, ValueError):
        sign: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return sign
    return None


class Heart(threading.Thread):
    """Writes a heartbeat file until it is stopped: one small file a beat, in a thread of its own; a full disk is no error."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.path, self.beat = path, int((read_beat(path) or {}).get("beat", 0))
        self._who, self._over = identity(), threading.Event()
        self.write()
        self.start()

    def write(self) -> None:
        """One beat."""
        self.beat += 1
        with suppress(OSError):
            write_text(self.path, json.dumps(self._who | {"beat": self.beat}))

    def run(self) -> None:
        """Beat until stopped."""
        while not self._over.wait(interval()):
            if not self.path.parent.is_dir():  # delivered and removed
                return
            self.write()

    def stop(self) -> None:
        """No further beat."""
        self._over.set()


class Watcher:
    """Judges heartbeats, and remembers the numbers that it saw, for later looks of this user on this machine too."""

    def __init__(self, memory: Path | None = None) -> None:
        self._file = memory or state_folder() / "heartbeats.json"
        noted = read_beat(self._file) or {}
        self._seen: dict[str, list[float]] = noted.get("seen", {}) if noted.get("machine") == machine() else {}

    def alive(self, path: Path) -> bool:
        """Whether the process that beats here lives. Without a heartbeat file nothing says so."""
        sign = read_beat(path)
        here = process_lives(sign) if sign else False
        return self.alive_elsewhere(path) if here is None else here

    def alive_elsewhere(self, path: Path) -> bool:
        """Whether a process of another machine beats here."""
        sign = read_beat(path)
        if sign is None or sign.get("machine") == machine():
            return False
        return not self.silent(str(path), float(sign["beat"]), _age(path))

    def silent(self, name: str, beat: float, age: float | None) -> bool:
        """Whether a beat of another machine is too old: by `age` (seconds; None: not known), or unchanged for too long here.

        An age below zero is a clock set back, and says nothing.
        """
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        before = self._seen.get(name)
        if before is None or before[0] != beat:
            self._seen[name] = before = [beat, now]
            self._remember(now)
        return now - before[1] > lost_after() or (age is not None and age > lost_after())

    def _remember(self, now: float) -> None:
        self._seen = {name: seen for name, seen in self._seen.items() if now - seen[1] < 7 * 86400}
        with suppress(OSError):
            write_text(self._file, json.dumps({"machine": machine(), "seen": self._seen}))


def _age(path: Path) -> float | None:
    """Seconds since a file was written, by the clock that stamps files there; None where nothing can be written to ask it."""
    probe = path.with_name(f".clock-{os.getpid()}-{uuid4().hex[:8]}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return None
    finally:
        with suppress(OSError):
            probe.unlink()

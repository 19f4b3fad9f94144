"""A run's events on disk: written before anything is sent, so that neither a slow nor an absent server loses a point.

A spool is a folder, one per process that writes a run:

    run.json       the run: uri, experiment, name, key, params, tags, parent, start time
    events.jsonl   one event a line, with its fixed time stamp: metrics, tags, an artifact, or the end of the run
    files/         copies of the artifacts that still wait
    delivered      how many bytes of events.jsonl the server has
    rejected.jsonl events that the server will never take, with its reason
    heartbeat.json who writes, and a number that grows while it lives (see `tracking.heartbeat`)
    lock           held while the writing (or a delivering) process lives

Order is logical: a clock that is set back gives no event an earlier stamp than the one before it, and no spool an earlier name.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import IO, Any

from tracking.heartbeat import HEARTBEAT, Heart, Watcher
from tracking.places import take_lock, write_text


def now_ms() -> int:
    """Milliseconds since 1970, MLflow's time stamp."""
    return time.time_ns() // 1_000_000


class Spool:
    """One spool folder, locked by this process. `header` is `run.json`."""

    def __init__(self, folder: Path, lock: IO[str]) -> None:
        self.folder, self._lock = folder, lock
        self.header: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self._events = folder / "events.jsonl"
        self._stamp = max(int(self.header["start_time"]), _number(folder))
        self._offset = _count(folder / "delivered")
        self.heart: Heart | None = None

    @classmethod
    def create(cls, root: Path, header: dict[str, Any]) -> Spool:
        """A new spool under `root`."""
        root = root.absolute()
        number = max([now_ms(), *(1 + _number(found) for found in root.glob("*-*"))])
        folder = root / f"{number}-{uuid.uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        lock = take_lock(folder / "lock")
        if lock is None:
            raise OSError(f"{folder}: cannot lock a new file")
        write_text(folder / "run.json", json.dumps(header))
        made = cls(folder, lock)
        made.heart = Heart(folder / HEARTBEAT)
        return made

    @classmethod
    def abandoned(cls, root: Path, key: str | None = None) -> tuple[list[Spool], list[str]]:
        """The spools under `root` that no living process holds, oldest first (of one run if `key` is given); now held here.

        And what is wrong with those whose run.json cannot be read, a line each: they must not hold up the others.
        """
        found, damaged, watcher = [], [], Watcher()
        for path in sorted(root.glob("*/run.json")) if root.is_dir() else []:
            lock = _lock_left(path.parent)
            # A network file system may keep a lock to one machine: what another one writes has to be silent too.
            if lock is None or not path.exists() or watcher.alive_elsewhere(path.parent / HEARTBEAT):
                if lock is not None:
                    lock.close()
                continue
            try:
                spool = cls(path.parent, lock)
                wanted = key in (None, spool.header["key"])
            except (ValueError, KeyError, TypeError, OSError) as error:
                damaged.append(f"{path}: not the description of a run ({error}); mend it, or delete its folder")
                lock.close()
                continue
            found.append(spool) if wanted else spool.release()
        return found, damaged

    @property
    def name(self) -> str:
        """A name that no other spool has."""
        return self.folder.name

    def append(self, event: dict[str, Any]) -> None:
        """Write one event to disk, stamped with the time now. Raises `OSError` where the disk refuses: then nothing is added."""
        self._stamp = max(self._stamp, now_ms())
        line = (json.dumps({"time": self._stamp} | event) + "\n").encode()
        with self._events.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._events))
            except OSError:
                file.truncate(end)  # half a line would swallow the next one
                raise

    def keep(self, path: Path, name: str) -> str:
        """Copy a file or a folder into the spool, as it is now; the path of the copy, relative to the spool."""
        target = Path("files") / uuid.uuid4().hex[:12] / name
        (self.folder / target).parent.mkdir(parents=True)
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, self.folder / target)
        return target.as_posix()

    def pending(self, limit: int = 500) -> list[tuple[int, dict[str, Any]]]:
        """The first events that wait, each with the byte where it ends; the torn last line of a killed process is left out."""
        if not self.waits:
            return []
        found: list[tuple[int, dict[str, Any]]] = []
        offset = self._offset
        with self._events.open("rb") as file:
            file.seek(offset)
            for line in file:
                if len(found) == limit or not line.endswith(b"\n"):
                    break
                offset += len(line)
                found.append((offset, json.loads(line)))
        return found

    @property
    def waits(self) -> bool:
        """Whether anything was written that the server does not have."""
        return self._events.exists() and self._events.stat().st_size > self._offset

    def drop_pending(self) -> None:
        """Another process has taken the run over, and sends all of it again: what still waits here is not to be sent."""
        if self._events.exists():
            self._note(self._events.stat().st_size)

    def _note(self, offset: int) -> None:
        """In place and not forced to the disk: an older number, or none after a loss of power, sends again what is there."""
        with (self.folder / "delivered").open("r+" if self._offset else "w", encoding="ascii") as file:
            file.write(f"{offset:020d}")
        self._offset = offset

    def delivered(self, offset: int, event: dict[str, Any]) -> None:
        """The server has all events up to byte `offset`, of which `event` is the last: its files are dropped."""
        self._note(offset)
        if "artifact" in event:
            shutil.rmtree((self.folder / event["artifact"]).parent, ignore_errors=True)

    def reject(self, event: dict[str, Any], reason: str) -> None:
        """Set aside what the server will never take, for a person to read."""
        with (self.folder / "rejected.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(event | {"reason": reason}) + "\n")

    @property
    def rejected(self) -> bool:
        """Whether something was set aside."""
        return (self.folder / "rejected.jsonl").exists()

    def release(self) -> None:
        """Give the folder back, as it is."""
        if self.heart is not None:
            self.heart.stop()
            (self.folder / HEARTBEAT).unlink(missing_ok=True)
        self._lock.close()

    def remove(self) -> None:
        """Everything is delivered: delete the folder, or keep what was rejected for a person to read, no longer as a spool."""
        if self.heart is not None:
            self.heart.stop()
        (self.folder / "run.json").unlink(missing_ok=True)  # first: who looks meanwhile takes a half-deleted folder for no spool
        if not self.rejected:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.release()


def _lock_left(folder: Path) -> IO[str] | None:
    """The lock of a spool that is still there: one that is being removed has no run.json by the time that its lock is gone."""
    lock = folder / "lock"
    return take_lock(lock, make=not lock.exists() and (folder / "run.json").exists())


def _count(delivered: Path) -> int:
    """Bytes that the server has; 0 where nothing is noted, or nothing that is a number."""
    text = delivered.read_text(encoding="ascii", errors="replace") if delivered.exists() else ""
    return int(text) if text.isdecimal() else 0


def _number(folder: Path) -> int:
    """The leading number of a spool's name; 0 for what is no spool."""
    number = folder.name.partition("-")[0]
    return int(number) if number.isdigit() else 0

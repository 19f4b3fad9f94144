"""A run's events on disk: written before anything is sent, so that neither a slow nor an absent server loses a point.

A spool is a folder, one per process that writes a run:

    run.json       the run: uri, experiment, name, key, params, tags, parent, start time
    events.jsonl   one event a line, with its fixed time stamp: metrics, tags, an artifact, or the end of the run
    files/         copies of the artifacts that still wait
    delivered      how many bytes of events.jsonl the server has
    rejected.jsonl events that the server will never take, with its reason
    lock           held while the writing (or a delivering) process lives
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from pathlib import Path
from typing import IO, Any

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

    @classmethod
    def create(cls, root: Path, header: dict[str, Any]) -> Spool:
        """A new spool under `root`."""
        folder = root.absolute() / f"{now_ms()}-{uuid.uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        lock = take_lock(folder / "lock")
        if lock is None:
            raise OSError(f"{folder}: cannot lock a new file")
        write_text(folder / "run.json", json.dumps(header))
        return cls(folder, lock)

    @classmethod
    def abandoned(cls, root: Path, key: str | None = None) -> list[Spool]:
        """The spools under `root` that no living process holds, oldest first (of one run if `key` is given); now held here."""
        found = []
        for path in sorted(root.glob("*/run.json")) if root.is_dir() else []:
            lock = take_lock(path.parent / "lock")
            if lock is None or not path.exists():
                continue
            spool = cls(path.parent, lock)
            if key is None or spool.header["key"] == key:
                found.append(spool)
            else:
                spool.release()
        return found

    @property
    def name(self) -> str:
        """A name that no other spool has."""
        return self.folder.name

    def append(self, event: dict[str, Any]) -> None:
        """Write one event to disk, stamped with the time now."""
        with self._events.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": now_ms()} | event) + "\n")

    def keep(self, path: Path, name: str) -> str:
        """Copy a file or a folder into the spool, as it is now; the path of the copy, relative to the spool."""
        target = Path("files") / uuid.uuid4().hex[:12] / name
        (self.folder / target).parent.mkdir(parents=True)
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, self.folder / target)
        return target.as_posix()

    def pending(self, limit: int = 500) -> list[tuple[int, dict[str, Any]]]:
        """The first events that wait, each with the byte where it ends; the torn last line of a killed process is left out."""
        if not self._events.exists():
            return []
        found: list[tuple[int, dict[str, Any]]] = []
        offset = self._delivered()
        with self._events.open("rb") as file:
            file.seek(offset)
            for line in file:
                if len(found) == limit or not line.endswith(b"\n"):
                    break
                offset += len(line)
                found.append((offset, json.loads(line)))
        return found

    def _delivered(self) -> int:
        path = self.folder / "delivered"
        return int(path.read_text()) if path.exists() else 0

    def delivered(self, offset: int, event: dict[str, Any]) -> None:
        """The server has all events up to byte `offset`, of which `event` is the last: its files are dropped."""
        write_text(self.folder / "delivered", str(offset))
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
        self._lock.close()

    def remove(self) -> None:
        """Everything is delivered: delete the folder, or keep what was rejected for a person to read, no longer as a spool."""
        if self.rejected:
            (self.folder / "run.json").unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

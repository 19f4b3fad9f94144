"""The fence of a trial whose folder lies in a bucket: one worker at a time may change its head."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dmkd.errors import SweepError
from sweeps.bucket.copy import Copy, fetch
from sweeps.bucket.head import Head, change_head, read_head
from sweeps.bucket.store import PROMPT, Conflict, Store
from sweeps.fence import Away, Fence, Superseded
from sweeps.folder import DONE
from tracking.client import Unreachable
from tracking.heartbeat import born, identity, interval, machine
from tracking.places import locked, take_lock

TRIES = 20
"""So often a trial is asked for that others take at the same moment."""
ALIVE = "alive"
WORK = "work"
"""Below a sweep's folder on a node: a folder for each process that works there."""


def head_name(key: str) -> str:
    """The object that is a trial's truth."""
    return f"heads/{key}.json"


def beat_name(key: str, token: int) -> str:
    """The object that a worker renews while it lives."""
    return f"beats/{key}/{token}"


def mark_name(key: str) -> str:
    """The object that says why the scheduler stopped a trial."""
    return f"marks/{key}"


class Beats(threading.Thread):
    """Writes a sign of life into the bucket until it is stopped."""

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(name="bucket-heartbeat", daemon=True)
        self.store, self.object, self._over = store, name, threading.Event()
        self.start()

    def run(self) -> None:
        """One object a beat; a store that is away is no error."""
        beat = 0
        while True:
            beat += 1
            with suppress(SweepError):
                self.store.write(self.object, str(beat).encode(), patience=PROMPT)
            if self._over.wait(interval()):
                return

    def stop(self) -> None:
        """No further beat, and none on its way, unless the store is too slow to wait for."""
        self._over.set()
        self.join(PROMPT)


class BucketFence(Fence):
    """The right to change a trial's head; its folder is this process's own, and empty when it ends. Made by `take`."""

    def __init__(self, store: Store, copy: Copy) -> None:
        super().__init__(copy.folder, copy.head.token)
        self.store, self.copy = store, copy
        self.beats = Beats(store, beat_name(copy.folder.name, self.token))

    @classmethod
    def take_from(cls, store: Store, folder: Path, lease: int) -> BucketFence:
        """Take the trial over, with what its head holds: from now on nothing that an earlier holder puts counts.

        Raises `Superseded` where a later driver than the one with this `lease` has had it.
        """
        name = head_name(folder.name)
        taken = _raised(store, name, lease)
        claim(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        damaged = fetch(store, taken[0].files.items(), folder)
        if any(not path.startswith("state/") for path in damaged) and DONE not in taken[0].files:
            _start_afresh(folder)
        store.delete([mark_name(folder.name), *store.sizes(f"beats/{folder.name}/")])
        return cls(store, Copy(store, name, folder, taken, below=f"trials/{folder.name}/"))

    def mine(self) -> bool:
        """Whether nobody has taken the trial over."""
        return self.copy.mine()

    def allowed(self) -> bool:
        """The same for the tracker's thread. Raises `Unreachable` where the store does not answer: ask again."""
        try:
            return self.copy.mine(PROMPT)
        except Away as error:
            raise Unreachable(str(error)) from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Change the folder, then put it. Raises `Superseded` where another worker has the trial: then nothing was changed."""
        with self.copy.lock:
            yield
            self._commit()

    def keep(self, patience: float = 30.0) -> None:
        """Put what a thread has written, unless the trial's own is about to put something for longer than `patience`."""
        if self.copy.lock.acquire(timeout=patience):
            try:
                self._commit()
            finally:
                self.copy.lock.release()

    def _commit(self) -> None:
        try:
            self.copy.commit()
        except Conflict:
            raise Superseded(f"{self.folder.name}: another worker continues this trial; this one stops") from None

    def close(self) -> None:
        """The trial is over, or leaves this process: what lies here, and what nobody names in the bucket, is of no use."""
        self.beats.stop()
        with suppress(SweepError):
            found = read_head(self.store, self.copy.name, PROMPT)
            if found is not None and found[0].token == self.token:
                named = found[0].objects() | self.copy.head.objects()
                self.store.delete([*unnamed(self.store, self.folder.name, self.token, named), self.beats.object])
        shutil.rmtree(self.folder, ignore_errors=True)


def unnamed(store: Store, key: str, upto: int, named: set[str]) -> list[str]:
    """Objects of a trial that holders up to a token put, and that are not `named`: left by late ones, and by the killed."""
    below = f"trials/{key}/"
    found = [name for name in store.sizes(below) if name not in named]
    return [name for name in found if int(name.removeprefix(below).partition("/")[0]) <= upto]


def _raised(store: Store, name: str, lease: int) -> tuple[Head, str]:
    for _ in range(TRIES):
        old, etag = read_head(store, name) or (None, None)
        before = old or Head()
        if before.lease > lease:
            raise Superseded(f"{store.url}/{name}: a later driver has taken this sweep over; this worker stops")
        try:
            return change_head(store, name, old, etag, replace(before, token=before.token + 1, lease=lease, who=identity()))
        except Conflict:
            continue
    raise SweepError(f"{store.url}/{name}: changed by others {TRIES} times while it was taken")


def _start_afresh(folder: Path) -> None:
    """What was measured is gone with a damaged file: how often the trial died is kept, and `state` says that there was one."""
    print(f"dmkd: {folder.name}: starts afresh", file=sys.stderr)
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "attempts.json":
            entry.unlink()
    (folder / "state").mkdir()


def own_folder(root: Path) -> Path:
    """Where this process works below a sweep's folder."""
    here = hashlib.sha256(machine().encode()).hexdigest()[:8]
    return root / WORK / f"{here}-{os.getpid()}-{born(os.getpid())}"


_alive: dict[Path, int] = {}
"""Files that lock the folders of this process, open while it lives."""


def claim(own: Path) -> None:
    """Make this process's folder; those that nobody holds any more are deleted.

    By locks and not by process numbers: containers may share a disk and a name, and not see each other's processes.
    """
    own.parent.mkdir(parents=True, exist_ok=True)
    with locked(own.parent / ".lock"):
        for left in own.parent.glob("*-*"):
            if left not in _alive and (lock := take_lock(left / ALIVE)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                lock.close()
        if own not in _alive:
            held = take_lock(own / ALIVE)
            if held is None:
                raise SweepError(f"{own}: another process works there")
            _alive[own] = os.dup(held.fileno())
            held.close()

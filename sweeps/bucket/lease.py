"""One driver a sweep: whoever holds the head `driver.json`. Its beat is judged by whoever looks, by the looker's own clock."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dmkd.errors import SweepError
from sweeps.bucket.copy import Copy, carried, fetch
from sweeps.bucket.head import Head, change_head, read_head
from sweeps.bucket.mirror import Mirror
from sweeps.bucket.store import Conflict, Store
from sweeps.fence import Away
from tracking.heartbeat import MISSED, identity, interval, lost_after, process_lives

DRIVER, BELOW = "driver.json", "driver/"
STAYS = ("lock", "spool", "work", "given", "registered", "trials")
"""What a driver that begins finds in its folder and leaves there: all else is fetched anew."""
LOCAL = ("trials", "spool", "work", "ray", "unfit")
"""Folders in it that are not the driver's own to put."""


class Lease(threading.Thread):
    """The right to drive a sweep, renewed with every beat until it is closed. Made by `take`."""

    def __init__(self, copy: Copy, mirror: Mirror) -> None:
        super().__init__(name="lease", daemon=True)
        self.copy, self.mirror = copy, mirror
        self.token, self.lost, self._over = copy.head.token, "", threading.Event()

    @classmethod
    def take(cls, store: Store, folder: Path) -> Lease:
        """Become the driver, with what the last one put. Raises `SweepError`, naming it, where it lives."""
        found = read_head(store, DRIVER)
        if found is not None and not found[0].facts.get("ended"):
            _outlive(store, *found)
        old, etag = found or (None, None)
        before = old or Head()
        facts = {"folder": str(folder), "beat": 0, "every": interval(), "ended": False, "host": socket.gethostname()}
        new = replace(before, token=before.token + 1, who=identity(), facts=facts)
        try:
            taken = change_head(store, DRIVER, old, etag, new)
        except Conflict:
            raise SweepError(f"{store.url}: another driver began at this moment: wait for it, or choose another --name") from None
        _clear(folder)
        damaged = fetch(store, taken[0].files.items(), folder)
        if damaged:
            raise SweepError(
                f"{store.url}: {', '.join(damaged)} of the sweep is damaged; restore an earlier version of that object"
            )
        store.delete(store.sizes(BELOW).keys() - taken[0].objects())
        mirror = Mirror(store, folder / "trials")
        mirror.refresh()
        lease = cls(Copy(store, DRIVER, folder, taken, below=BELOW, carries=_own), mirror)
        lease.start()
        return lease

    def run(self) -> None:
        """Beat until closed; what takes the sweep from this driver is noted, for its main thread to stop."""
        beat = 0
        while not self._over.wait(interval()):
            beat += 1
            try:
                self.copy.renew(beat=beat)
            except Conflict:
                self.lost = f"{self.copy.store.url}: another driver has taken this sweep over; this one stops"
                return
            except SweepError as error:
                print(f"dmkd: {error}", file=sys.stderr)

    def check(self) -> None:
        """Raise `SweepError` where another driver has the sweep."""
        if self.lost:
            raise SweepError(self.lost)

    def save(self, **facts: object) -> None:
        """Put study and record as they are. Raises `SweepError` where another driver has the sweep, `Away` without a store."""
        self.check()
        try:
            self.copy.commit(**({"facts": {**self.copy.head.facts, **facts}} if facts else {}))
        except Conflict:
            self.lost = f"{self.copy.store.url}: another driver has taken this sweep over; this one stops"
            self.check()

    def close(self) -> None:
        """Put the last of it, and let others begin at once."""
        self._over.set()
        self.mirror.stop()
        if not self.lost:
            self.save(ended=True)


def _own(name: str) -> bool:
    return carried(name) and name.partition("/")[0] not in LOCAL


def _clear(folder: Path) -> None:
    """Networks in the folders of trials stay: a late worker of this machine may be reading them."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in [*folder.iterdir(), *folder.glob("trials/*/*")]:
        if entry.name not in STAYS and entry.name != "checkpoint":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for trial in folder.glob("trials/*"):
        with suppress(OSError):  # not empty
            trial.rmdir()


def _outlive(store: Store, head: Head, etag: str) -> None:
    """Return where the driver of a head is dead. Raises `SweepError` where it lives.

    That of another machine is watched for three of its beats: its head changes while it lives.
    """
    lives, host = process_lives(dict(head.who)), head.facts.get("host", "?")
    if lives is None:
        seconds = max(lost_after(), MISSED * float(head.facts.get("every", 0)))
        print(f"dmkd: looking for {seconds:.0f} s whether its driver on {host} still lives", file=sys.stderr, flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not lives:
            time.sleep(min(1.0, seconds / 10))
            lives = (read_head(store, DRIVER) or (None, ""))[1] != etag
    if lives:
        raise SweepError(
            f"sweep {store.url} is already running (pid {head.who['pid']} on {host}): wait for it, or start another with --name"
        )


_held: dict[str, Lease] = {}
"""The leases of this process, by the sweep's address."""


@contextmanager
def held(store: Store, folder: Path) -> Iterator[None]:
    """Drive the sweep in this process. Raises `SweepError` where another does."""
    lease = _held[store.url] = Lease.take(store, folder)
    try:
        yield
    finally:
        del _held[store.url]
        with suppress(Away):
            lease.close()


def lease_of(store: Store) -> Lease | None:
    """This process's lease; None where it drives no such sweep."""
    return _held.get(store.url)

"""Who delivers when: the background thread of a live run, and whoever finds what a dead process left."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from tracking import run_cache
from tracking.client import Unreachable
from tracking.delivery import Sender
from tracking.errors import Superseded
from tracking.heartbeat import interval
from tracking.spool import Spool

_log = logging.getLogger("tracking")


class Courier(threading.Thread):
    """The background thread of a live run: the trainer appends to the spool and never waits."""

    def __init__(self, sender: Sender, patience: float = 30.0) -> None:
        super().__init__(name="tracking", daemon=True)
        self.sender, self.patience = sender, patience
        self._wake, self._closing = threading.Event(), threading.Event()
        self._empty = self._recovered = False
        self._beaten = time.monotonic()
        self.superseded = False
        """Whether another process has taken the run over."""

    def poke(self) -> None:
        """Something was appended."""
        self._wake.set()

    def run(self) -> None:
        """Deliver until closed; then the spool is removed if the server has all of it, or left for `sync`."""
        spool = self.sender.spool
        try:
            self._empty = self._loop()
        except Superseded as error:
            _log.warning("%s", error)
            self.superseded = self._empty = True
            spool.drop_pending()  # the other one began from a saved state, and sends again what led to it
        except Exception:
            _log.exception("delivery stopped; the run waits in %s, `dmkd sync` sends it", spool.folder)
        spool.remove() if self._empty else spool.release()

    def _loop(self) -> bool:
        """Without a server: try again after 1, 2, 4, ... 30 s, and not at all once closing. Returns whether all was delivered."""
        pause = 1.0
        while True:
            closing = self._closing.is_set()
            self._wake.clear()
            try:
                self._round()
                pause = 1.0
                if closing:
                    return True
                self._wake.wait(interval())
            except Unreachable as error:
                if closing:
                    _log.warning("%s; the run waits in %s, `dmkd sync` sends it", error, self.sender.spool.folder)
                    return False
                self._closing.wait(pause)
                pause = min(2 * pause, 30.0)

    def _round(self) -> None:
        if self.sender.run_id is None:
            self.sender.open(live=True)
        if not self._recovered:
            recover_all(self.sender.spool.folder.parent, self.sender.spool.header["key"])
            self._recovered = True
        if time.monotonic() - self._beaten >= interval():
            self._beaten = time.monotonic()
            self.sender.beat()
        while self.sender.deliver():
            pass

    def close(self, patience: float | None = None) -> bool:
        """Wait until all is delivered, `patience` seconds at most; whether it is."""
        self._closing.set()
        self._wake.set()
        self.join(self.patience if patience is None else patience)
        if self.is_alive():
            _log.warning("the tracking server is slow: the rest of the run waits in %s", self.sender.spool.folder)
        return self._empty


def recover_all(root: Path, key: str | None = None) -> tuple[int, list[str]]:
    """Deliver the spools that no living process writes (of one run if `key` is given): how many, and why others wait."""
    delivered = 0
    spools, reasons = Spool.abandoned(root, key)
    for spool in spools:
        try:
            Sender(spool).recover()
            run_cache.forget(spool.header["uri"])
            delivered += 1
        except Exception as error:  # one damaged database must not keep the other runs, or a sweep, from going on
            reasons.append(f"{spool.folder}: {' '.join(str(error).split())[:300]}")
            spool.release()
    return delivered, reasons

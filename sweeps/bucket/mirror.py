"""What a driver sees of its trials: their small files, copied from the bucket into its own folder while it runs."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path

from dmkd.errors import SweepError
from sweeps.bucket.head import Head, read_head
from sweeps.bucket.store import Store
from sweeps.fence import TOKEN
from tracking.heartbeat import HEARTBEAT, interval
from tracking.places import write_text

HEADS, BEATS = "heads/", "beats/"


class Mirror(threading.Thread):
    """Looks every third of a beat; `trials` holds a folder a trial with what the driver reads there."""

    def __init__(self, store: Store, trials: Path) -> None:
        super().__init__(name="mirror", daemon=True)
        self.store, self.trials = store, trials
        self._lock, self._over = threading.Lock(), threading.Event()
        self._heads: dict[str, str] = {}
        self._beats: dict[str, tuple[int, str]] = {}
        self._count = 0
        self.start()

    def run(self) -> None:
        """Look until stopped. Where the store does not answer nobody is silent: no worker could tell that it lives."""
        blind = False
        while not self._over.wait(interval() / 3):
            try:
                self.refresh(patience=0)
                self._listen(blind)
                blind = False
            except (SweepError, OSError):
                blind = True
                with suppress(OSError):
                    self._listen(blind, heard={})

    def refresh(self, key: str = "", patience: float | None = None) -> None:
        """Bring the trials up to date, or one of them."""
        with self._lock:
            for name, (etag, _) in self.store.sizes(f"{HEADS}{key}", patience).items():
                if self._heads.get(name) != etag and (found := read_head(self.store, name, patience)):
                    write_seen(self.trials / name.removeprefix(HEADS).removesuffix(".json"), found[0])
                    self._heads[name] = found[1]

    def _listen(self, all_live: bool, heard: dict[str, tuple[str, int]] | None = None) -> None:
        """Renew the heartbeat file of each trial whose last holder has beaten, or of all."""
        last: dict[str, tuple[int, str]] = {}
        for name, (etag, _) in (self.store.sizes(BEATS, patience=0) if heard is None else heard).items():
            key, _, token = name.removeprefix(BEATS).partition("/")
            last[key] = max(last.get(key, (0, "")), (int(token), etag))
        self._count += 1
        for key in self._beats.keys() | last.keys():
            if all_live or (key in last and self._beats.get(key) != last[key]):
                write_text(self.trials / key / HEARTBEAT, json.dumps({"beat": self._count}))
        self._beats |= last

    def stop(self) -> None:
        """No further look."""
        self._over.set()


def write_seen(folder: Path, head: Head | None) -> None:
    """Make a trial's folder show the small files of its head, and no other; networks below it stay."""
    files = {name: str(file["text"]) for name, file in head.files.items() if "text" in file and "/" not in name} if head else {}
    if head is not None:
        files[TOKEN] = json.dumps({**head.who, "token": head.token})
    for path in folder.glob("*"):
        if path.is_file() and path.name not in {*files, HEARTBEAT}:
            path.unlink()
    for name, text in files.items():
        write_text(folder / name, text)

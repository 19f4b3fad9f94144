"""A local folder whose truth is a head in the bucket: fetched when it is taken, put back whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmkd.errors import SweepError
from sweeps.bucket.head import File, Head, change_head, read_head
from sweeps.bucket.store import Conflict, Store

SMALL = 32 * 1024
"""Text of fewer bytes stands in the head itself."""
OWN = ("heartbeat.json", "lock", "settled")
"""Files that say something of this machine alone."""


def carried(name: str) -> bool:
    """Whether a file of a folder belongs into the bucket."""
    last = name.rpartition("/")[2]
    return (
        last not in OWN and not any(part.startswith(".") for part in name.split("/")) and not last.endswith((".partial", ".lock"))
    )


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(store: Store, files: Iterable[tuple[str, File]], folder: Path) -> list[str]:
    """Write files into `folder`; names of those that are missing in the bucket, truncated or altered: they are left out."""
    damaged = []
    for name, file in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if "text" in file:
            target.write_bytes(str(file["text"]).encode())
            continue
        found = store.read(str(file["at"]))
        if found is None or hashlib.sha256(found[0]).hexdigest() != file["sha256"]:
            damaged.append(name)
            print(f"dmkd: {store.url}/{file['at']} ({name}): missing, truncated or altered; left out", file=sys.stderr)
        else:
            target.write_bytes(found[0])
    return damaged


def holds(folder: Path, files: Mapping[str, File]) -> bool:
    """Whether a folder has these files, as they are."""
    return all(_equal(folder / name, file) for name, file in files.items())


def _equal(path: Path, file: File) -> bool:
    if not path.is_file():
        return False
    return path.read_bytes() == str(file["text"]).encode() if "text" in file else checksum(path) == file["sha256"]


class Copy:
    """`folder` as its holder works on it; `below` is the prefix of its objects, `carries` says which files are put."""

    def __init__(
        self,
        store: Store,
        name: str,
        folder: Path,
        taken: tuple[Head, str],
        *,
        below: str,
        carries: Callable[[str], bool] = carried,
    ) -> None:
        self.store, self.name, self.folder, self.below, self.carries = store, name, folder, below, carries
        self.head, self.etag = taken
        self.lock = threading.RLock()
        self._known: dict[str, tuple[tuple[int, ...], File]] = {}

    def mine(self, patience: float | None = None) -> bool:
        """Whether nobody has taken it since. Raises `Away` where the store does not answer."""
        found = read_head(self.store, self.name, patience)
        return found is not None and found[0].token == self.head.token

    def commit(self, **changes: Any) -> None:
        """Put what has changed, then the head that names it. Raises `Conflict`, having changed nothing, where another has it."""
        with self.lock:
            before, files = self.head.objects(), dict(self._files())
            self._known = {name: known for name, known in self._known.items() if name in files}
            before |= self._change(files=files, **changes)
            with suppress(SweepError):  # what stays is waste, and nothing else
                self.store.delete(before - self.head.objects())

    def _change(self, **changes: Any) -> set[str]:
        """Put the head with these changes. Where an earlier put of ours that seemed lost is there: the objects that it names."""
        if (new := replace(self.head, **changes)) == self.head:
            return set()
        try:
            self.head, self.etag = change_head(self.store, self.name, self.head, self.etag, new)
            return set()
        except Conflict:
            found = read_head(self.store, self.name)
            if found is None or found[0].token != self.head.token:
                raise
            self.head, self.etag = change_head(self.store, self.name, *found, replace(found[0], **changes))
            return found[0].objects()

    def renew(self, **facts: Any) -> None:
        """Put other facts, and no file. Raises `Conflict` as `commit` does."""
        with self.lock:
            self._change(facts={**self.head.facts, **facts})

    def _files(self) -> Iterator[tuple[str, File]]:
        for place, _, names in os.walk(self.folder):
            for path in (Path(place, name) for name in sorted(names)):
                name = path.relative_to(self.folder).as_posix()
                if self.carries(name) and (file := self._put(name, path)) is not None:
                    yield name, file

    def _put(self, name: str, path: Path) -> File | None:
        """What the head says of a file, which is in the bucket by then; None where it has gone meanwhile, or is no file."""
        try:
            state = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(state.st_mode):
            return None
        mark = (state.st_mtime_ns, state.st_size, state.st_ino)
        if self._known.get(name, ((), {}))[0] == mark:
            return self._known[name][1]
        file = self._text(path, state.st_size) or self._object(name, path, state.st_size)
        self._known[name] = mark, file
        return file

    def _text(self, path: Path, size: int) -> File | None:
        if size <= SMALL:
            with suppress(UnicodeDecodeError):
                return {"text": path.read_bytes().decode()}
        return None

    def _object(self, name: str, path: Path, size: int) -> File:
        content = checksum(path)
        before = self.head.files.get(name, {})
        if before.get("sha256") == content:
            return before
        at = f"{self.below}{self.head.token}/{content}"
        if at not in self.head.objects():
            self.store.write(at, path)
        return {"at": at, "sha256": content, "size": size}

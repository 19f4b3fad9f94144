"""The storage of a sweep in a bucket: every process works in a folder of its own, of which this carries what counts."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmkd.errors import SweepError
from sweeps.bucket.copy import fetch, holds
from sweeps.bucket.head import File, Head, change_head, read_head
from sweeps.bucket.lease import DRIVER, held, lease_of
from sweeps.bucket.mirror import write_seen
from sweeps.bucket.store import PROMPT, Conflict, Store
from sweeps.bucket.trial import TRIES, BucketFence, head_name, mark_name, own_folder
from sweeps.fence import Fence
from sweeps.storage import Storage
from tracking.heartbeat import identity
from tracking.places import locked, write_text

if TYPE_CHECKING:
    from sweeps.shared import Shared

SCRATCH = "DMKD_SCRATCH"
"""Environment variable: where a new sweep's processes work on every node (default: /var/tmp/dmkd-<user number>)."""


@dataclass(frozen=True)
class Bucket(Storage):
    """`root` is the sweep's folder on every node: one path, since the teachers in it are named by configurations."""

    option, mounted = f"${SCRATCH}", False
    store: Store
    root: Path
    lease: int = 0
    """The token of the driver."""

    @classmethod
    def of(cls, url: str, name: str) -> Bucket:
        """The sweep `name` below an address. Raises `SweepError` for an address that is none of S3."""
        store = Store.of(f"{url}/{name}")
        head = read_head(store, DRIVER, PROMPT)
        scratch = Path(os.environ.get(SCRATCH) or f"/var/tmp/dmkd-{os.getuid()}")
        own = scratch.absolute() / hashlib.sha256(store.url.encode()).hexdigest()[:12] / name
        return cls(store, Path(head[0].facts["folder"]) if head else own)

    def check(self) -> None:
        """Ask the store to refuse what it has to."""
        self.store.probe()

    def here(self, shared: Shared) -> Shared:
        """Trials in this process's own folder, their spool in this node's."""
        return replace(shared, folder=own_folder(self.root), spool=self.root / "spool")

    def home(self, shared: Shared) -> Path:
        """That of this node."""
        return self.root

    def note(self, path: Path, text: str) -> None:
        """As an object of its own."""
        self.store.write(self._name(path), text.encode())

    def bring(self, folder: Path) -> None:
        """Fetch those that are not here."""
        for name in self.store.sizes(f"{self._name(folder)}/"):
            if not (self.root / name).exists() and (found := self.store.read(name)):
                write_text(self.root / name, found[0].decode())

    def drop(self, *paths: Path) -> None:
        """Here and there."""
        for path in paths:
            self.store.delete(self.store.sizes(self._name(path)))
        super().drop(*paths)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def take(self, folder: Path) -> Fence:
        """Raise the token of the trial's head, and fetch what it names."""
        return BucketFence.take_from(self.store, folder, self.lease)

    def stopped(self, folder: Path) -> str | None:
        """What the marker object says."""
        found = self.store.read(mark_name(folder.name))
        return found[0].decode().strip() if found else None

    def stop(self, folder: Path, reason: str) -> None:
        """Put the marker object."""
        self.store.write(mark_name(folder.name), reason.encode())

    def fetch(self, *folders: str) -> None:
        """Those below `root` that are not there. Raises `SweepError` where one is damaged."""
        for folder in (Path(folder) for folder in folders if folder):
            if folder.is_relative_to(self.root):
                files = self._files(self._name(folder))
                if files and not holds(folder, files):
                    self._fetch(folder, files)

    def _files(self, path: str) -> dict[str, File]:
        """What the heads say of a folder."""
        first, _, rest = path.partition("/")
        key, _, inside = rest.partition("/")
        name, inside = (head_name(key), inside) if first == "trials" else (DRIVER, path)
        head = (read_head(self.store, name) or (Head(), ""))[0]
        return {there.removeprefix(f"{inside}/"): file for there, file in head.files.items() if there.startswith(f"{inside}/")}

    def _fetch(self, folder: Path, files: Mapping[str, File]) -> None:
        partial = self.root / f".{uuid.uuid4().hex[:12]}"
        if fetch(self.store, files.items(), partial):
            raise SweepError(f"{self.store.url}: {self._name(folder)} is damaged")
        with locked(self.root / ".fetching"):
            if folder.exists():  # of a sweep of the same name that was deleted
                shutil.rmtree(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(folder)

    def held(self, folder: Path) -> AbstractContextManager[None]:
        """Hold the driver's head."""
        return held(self.store, folder)

    def leased(self) -> Storage:
        """With the driver's token."""
        lease = lease_of(self.store)
        return replace(self, lease=lease.token if lease else 0)

    def save(self) -> None:
        """Put study and record, if they have changed."""
        if lease := lease_of(self.store):
            lease.save()

    def refresh(self, folder: Path | None = None) -> None:
        """Look at the heads."""
        if lease := lease_of(self.store):
            lease.check()
            lease.mirror.refresh(folder.name if folder else "")
        elif folder is not None:
            found = read_head(self.store, head_name(folder.name))
            write_seen(folder, found[0] if found else None)

    def amend(self, folder: Path, add: Mapping[str, str] | None = None, drop: Sequence[str] = ()) -> None:
        """By a token of its own: a late worker of the trial changes nothing after that."""
        name, more = head_name(folder.name), {path: {"text": text} for path, text in (add or {}).items()}
        for _ in range(TRIES):
            old, etag = read_head(self.store, name) or (None, None)
            before, own = old or Head(), self.leased().lease  # type: ignore[attr-defined]
            if own and before.lease > own:
                raise SweepError(f"{self.store.url}: another driver has taken this sweep over; this one stops")
            kept = {path: file for path, file in before.files.items() if not _within(path, drop)}
            new = replace(before, token=before.token + 1, lease=max(before.lease, own), who=identity(), files=kept | more)
            try:
                change_head(self.store, name, old, etag, new)
            except Conflict:
                continue
            self.store.delete(before.objects() - new.objects())
            return self.refresh(folder)
        raise SweepError(f"{self.store.url}/{name}: changed by others while it was to be changed")

    def seen(self, folder: Path) -> str:
        """The address."""
        return self.store.url

    def shown(self, folder: Path) -> str:
        """The address, and where this machine works."""
        return f"{self.store.url} (on each node in {folder})"


def _within(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}/") for name in names)

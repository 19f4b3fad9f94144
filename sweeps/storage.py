"""Where a sweep's folder really lies. `Storage` is the folder itself, seen by every node: then nothing has to be carried.

`sweeps.bucket` has the other one. All that trials and drivers know of the difference is called here.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.fence import Fence
from sweeps.folder import STOPPED
from tracking.places import write_text

if TYPE_CHECKING:
    from sweeps.shared import Shared


@dataclass(frozen=True)
class Storage:
    """A folder that every node mounts."""

    option = "--storage"
    """What chooses another working folder."""
    mounted = True
    """Whether every node has to see the sweep's folder."""

    def check(self) -> None:
        """Raise `SweepError` where no sweep can be kept there."""

    def here(self, shared: Shared) -> Shared:
        """In a worker: the same with the folders that this process works in."""
        return shared

    def home(self, shared: Shared) -> Path:
        """The sweep's folder, where notes lie."""
        return shared.folder.parent

    def note(self, path: Path, text: str) -> None:
        """Write a small file below the sweep's folder that others look for there."""
        write_text(path, text)

    def bring(self, folder: Path) -> None:
        """See the notes that others have written into a folder below the sweep's."""

    def drop(self, *paths: Path) -> None:
        """Delete notes, or a folder of them."""
        for path in paths:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def take(self, folder: Path) -> Fence:
        """In a worker: take a trial over; `folder` holds what it has so far. Raises `SweepError` where it cannot be taken."""
        return Fence.take(folder)

    def stopped(self, folder: Path) -> str | None:
        """In a worker: why the scheduler stopped a trial, where it did."""
        marker = folder / STOPPED
        return marker.read_text(encoding="utf-8").strip() if marker.exists() else None

    def fetch(self, *folders: str) -> None:
        """Have the networks that this sweep keeps in these folders here."""

    def stop(self, folder: Path, reason: str) -> None:
        """In the driver: leave the marker that a trial's worker looks for when it is ended."""
        write_text(folder / STOPPED, reason)

    def held(self, folder: Path) -> AbstractContextManager[None]:
        """Drive the sweep in this folder, whose lock is held: take up what it was, and leave what it is."""
        return nullcontext()

    def leased(self) -> Storage:
        """As the workers of this driver get it."""
        return self

    def save(self) -> None:
        """In the driver: what study and record say now is safe when this returns. Raises `SweepError` where another drives."""

    def refresh(self, folder: Path | None = None) -> None:
        """In the driver, or before it holds the sweep: see what workers have written, to one trial or to all."""

    def amend(self, folder: Path, add: Mapping[str, str] | None = None, drop: Sequence[str] = ()) -> None:
        """In the driver: change a trial that no worker holds: small files to write, files and folders to delete."""
        Storage.drop(self, *(folder / name for name in drop))
        for name, text in (add or {}).items():
            write_text(folder / name, text)

    def seen(self, folder: Path) -> str:
        """What every node is asked for, where the sweep's folder is `folder`."""
        return str(folder)

    def shown(self, folder: Path) -> str:
        """The sweep's folder, for a person."""
        return str(folder)


MOUNTED = Storage()
"""The one storage without settings of its own."""

"""Put a checkpoint in its place all at once, and go on where a killed pull of the same one stopped."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tracking.checkpoints import PULLED, Source, fetch
from tracking.client import Unreachable
from tracking.errors import TrackingError
from tracking.places import take_lock

PARTIAL = ".partial-"


def install(source: Source, to: Path, finish: Callable[[Path], None] | None = None) -> Path:
    """Fetch `source` beside `to`, check it, let `finish` work on it, and move it there in one step.

    `to` is whole then, or as it was before. What was fetched stays beside it, hidden, where the tracker went away or the process
    was ended: the next pull of the same
    checkpoint verifies it and goes on. Raises `TrackingError`, and what `finish` raises.
    """
    to = to.absolute()
    _free(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    partial, lock = _partial(to, source.name)
    kept = False
    try:
        fetch(source, partial)
        if finish is not None:
            finish(partial)
        _sign(partial, source.name)
        partial.chmod(0o755)
        _swap(partial, to)
    except (Unreachable, KeyboardInterrupt):
        kept = True
        _sign(partial, source.name)
        raise
    finally:
        if not kept:
            shutil.rmtree(partial, ignore_errors=True)
        _lock_of(partial).unlink(missing_ok=True)
        if lock:
            lock.close()
    return to


def _sign(folder: Path, name: str) -> None:
    (folder / PULLED).write_text(json.dumps({"from": name}), encoding="utf-8")


def _signed(folder: Path) -> str:
    try:
        return str(json.loads((folder / PULLED).read_text(encoding="utf-8"))["from"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _free(to: Path) -> None:
    """Only what an earlier pull made is ever replaced."""
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise TrackingError(f"{to}: is not a folder; name one that does not exist yet")
    if to.is_dir() and any(to.iterdir()) and not (to / PULLED).is_file():
        raise TrackingError(f"{to}: holds other files; name an empty folder, or one that does not exist yet")


def _partial(to: Path, name: str) -> tuple[Path, IO[str] | None]:
    """A locked folder to fetch into: what a killed pull of the same checkpoint left, or a new one; what others left is removed.

    The folders of living pulls are locked, and left alone.
    """
    for old in to.parent.glob(f".{to.name}.old-*"):
        shutil.rmtree(old, ignore_errors=True)
    found: list[tuple[Path, IO[str]]] = []
    for partial in to.parent.glob(f".{to.name}{PARTIAL}*"):
        lock = take_lock(_lock_of(partial)) if partial.is_dir() and not partial.is_symlink() else None
        if lock and not found and _signed(partial) == name:
            found.append((partial, lock))
        elif lock:
            shutil.rmtree(partial, ignore_errors=True)
            _lock_of(partial).unlink(missing_ok=True)
            lock.close()
    if found:
        return found[0]
    made = to.with_name(f".{to.name}{PARTIAL}{uuid.uuid4().hex[:12]}")
    taken = take_lock(_lock_of(made))  # before there is a folder that another pull could take for a dead one's
    made.mkdir(mode=0o700)
    _sign(made, name)
    return made, taken


def _lock_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.lock")


def _swap(partial: Path, to: Path) -> None:
    old = partial.with_name(partial.name.replace(PARTIAL, ".old-"))
    if to.exists():
        to.replace(old)
    partial.replace(to)
    shutil.rmtree(old, ignore_errors=True)

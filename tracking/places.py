"""Where things lie: the tracking URI, the state folder; and a lock between processes (standard library only)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tracking.errors import TrackingError


def default_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, or the database `mlflow.db` of the working folder, as an absolute URI."""
    return absolute_uri(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")


def absolute_uri(uri: str) -> str:
    """The same place whatever the working folder: a relative sqlite path is made absolute, all else is left as it is."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a sqlite database, or None for any other URI. Raises `TrackingError` for one in memory."""
    if not re.match(r"sqlite(\+\w+)?:", uri):
        return None
    path = uri.partition(":///")[2].partition("?")[0]
    if not path or path == ":memory:":
        raise TrackingError(
            f"tracking URI {uri!r}: a database in memory keeps nothing; say sqlite:///mlflow.db or http://host:port"
        )
    return Path(path).absolute()


def is_http(uri: str) -> bool:
    """Whether `uri` names an MLflow server."""
    return uri.startswith(("http://", "https://"))


def local_folder(artifact_uri: str | None) -> Path | None:
    """The folder that an artifact URI names, or None where it lies behind a server or in an object store."""
    if not artifact_uri:
        return None
    parsed = urllib.parse.urlparse(artifact_uri)
    if parsed.scheme == "file":
        return Path(urllib.parse.unquote(parsed.path))
    return Path(artifact_uri) if not parsed.scheme else None


def state_folder() -> Path:
    """What this user's program remembers: `$DMKD_STATE`, else `dmkd` in the XDG state folder (`~/.local/state`)."""
    if chosen := os.environ.get("DMKD_STATE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "dmkd"


def spool_folder() -> Path:
    """Where runs wait until the tracking server has them, unless another folder is named."""
    return state_folder() / "spool"


def note_spool(root: Path) -> None:
    """Remember a spool folder that is not the default one, so that `sync` finds it."""
    root, notes = root.absolute(), state_folder() / "spools"
    if root == spool_folder().absolute() or root in known_spools():
        return
    notes.mkdir(parents=True, exist_ok=True)
    write_text(notes / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.txt", str(root))


def known_spools() -> list[Path]:
    """The default spool folder, and every other one that was noted here and is still there."""
    noted = [Path(note.read_text(encoding="utf-8")) for note in sorted((state_folder() / "spools").glob("*.txt"))]
    return [spool_folder().absolute(), *(root for root in noted if root.is_dir())]


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new text, never half of it, also after a loss of power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # else the name may be on the disk before the text, and an empty file is what is found
    partial.replace(path)


def take_lock(path: Path, *, make: bool = True) -> IO[str] | None:
    """Lock a file without waiting: the open file that holds the lock (closing it gives it back), or None if another has it.

    A file that is not there is made, or, without `make`, has nothing to lock: None.
    """
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = path.open("a" if make else "r+")
    except FileNotFoundError:
        if make:
            raise
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


@contextmanager
def locked(path: Path, timeout: float = 120.0) -> Iterator[None]:
    """Hold a lock between the processes of one machine. Raises `TrackingError` if it is not free within `timeout` seconds."""
    end = time.monotonic() + timeout
    while (handle := take_lock(path)) is None:
        if time.monotonic() > end:
            raise TrackingError(f"{path}: another process has held this lock for {timeout:.0f} s; end it, or delete the file")
        time.sleep(0.05)
    with handle:
        yield

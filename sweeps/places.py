"""Where a sweep keeps things: absolute storage and tracking addresses, the code's commit, and one lock per sweep."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmkd.errors import SweepError
from sweeps.storage import MOUNTED, Storage

if TYPE_CHECKING:
    from sweeps.options import Options

LOCAL_SCHEMES = ("sqlite:///", "file:")
STUDY = "study.journal"
"""Optuna's study in a sweep's folder."""


@dataclass(frozen=True)
class Places:
    """Absolute addresses of a sweep."""

    folder: Path
    """<storage>/<sweep>: the study, the trials' states and checkpoints, the lock."""
    tracking_uri: str
    storage: Storage = MOUNTED

    @property
    def trials(self) -> Path:
        """One folder per run, named by its stable key."""
        return self.folder / "trials"

    @property
    def spool(self) -> Path:
        """Where the sweep's runs wait for the tracker: seen by every node, so that others deliver what a dead one left."""
        return self.folder / "spool"

    @property
    def shown(self) -> str:
        """The folder, for a person."""
        return self.storage.shown(self.folder)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Drive the sweep. Raises `SweepError`, naming its driver, where another process does."""
        with lock(self.folder), self.storage.held(self.folder):
            yield


def find_places(options: Options, name: str, make: bool = True) -> Places:
    """Absolute places, made and checked for writing (unless `make` is off). Raises `SweepError` where one cannot be written."""
    home, uri = working_home(), tracking_address(options)
    if not name or Path(name).name != name or name.startswith("."):
        raise SweepError(f"--name {name!r}: wanted a plain name without slashes, for it becomes a folder")
    storage, folder = MOUNTED, (home / (options.storage or "dmkd-output") / name).resolve()
    if "://" in options.storage:
        from sweeps.bucket.storage import Bucket

        storage = bucket = Bucket.of(options.storage, name)
        folder = bucket.root
    if make:
        _writable(folder, storage.option)
        storage.check()
    if make and uri.startswith("sqlite:///"):
        _writable(Path(uri.removeprefix("sqlite:///")).parent, "--tracking-uri")
    return Places(folder, uri, storage)


def tracking_address(options: Options) -> str:
    """Where runs are logged, absolute."""
    given = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or "sqlite:///mlflow.db"
    return absolute_uri(given, working_home())


def working_home() -> Path:
    """What relative places are relative to: the working folder, or ~/dmkd in a job's uploaded copy of it (it is deleted)."""
    here = Path.cwd()
    if "runtime_resources" not in here.parts:
        return here
    home = Path.home() / "dmkd"
    print(f"dmkd: this job runs in an uploaded folder that will be deleted; results go to {home} "
          "(--storage and --tracking-uri choose another place)", file=sys.stderr)  # fmt: skip
    return home


def absolute_uri(uri: str, home: Path) -> str:
    """A tracking address that means the same in every process."""
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{(home / uri.removeprefix('sqlite:///')).resolve()}"
    if uri.startswith("file:") or "://" not in uri:
        return str((home / uri.removeprefix("file:").replace("//", "", 1)).resolve())
    return uri


def _writable(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise SweepError(f"cannot write to {folder} ({error.strerror}): choose another place with {option}") from None


def find_commit(script: Path) -> str:
    """The git commit of the script's folder, else $DMKD_COMMIT (an uploaded working folder has no .git); empty if unknown."""
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["git", "-C", str(script.parent), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return os.environ.get("DMKD_COMMIT", "")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the sweep's lock. Raises `SweepError`, naming the holder, where another live process holds it.

    The operating system lets go of it when its holder dies, so a stale file is no lock.
    """
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise SweepError(
                f"sweep {folder.name!r} is already running ({holder}): wait for it, or start another with --name"
            ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)

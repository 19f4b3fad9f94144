"""Folders that are either whole or not there: written beside, checksummed, and renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path

from dmkd.errors import CheckpointError


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def previous_of(folder: Path) -> Path:
    """Where the content of `folder` stands for the moment in which it is replaced."""
    return folder.with_name(f".{folder.name}.previous")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` hold exactly `files`. Until the very end the old folder stays as it is, also when the disk is full.

    Raises `CheckpointError` where it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.new-{uuid.uuid4().hex[:12]}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        for name, content in files.items():
            _write(temporary / name, content)
        _sync(temporary)
        _swap(temporary, folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror or error}); what was there before is unchanged"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, folder: Path) -> None:
    old = previous_of(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.rename(old, folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make names in `folder` durable; some file systems do not offer it for folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_file(folder: Path, name: str, checksum: str | None = None) -> bytes:
    """The content of `folder / name`. Raises `CheckpointError` where it is missing, elsewhere, or altered."""
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; wanted a folder that dmkd wrote")
    if path.resolve().parent != folder.resolve():
        raise CheckpointError(f"{path}: leads out of its folder, to {path.resolve()}; copy the file itself")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    if checksum is not None and sha256(content) != checksum:
        raise CheckpointError(
            f"{path}: truncated or altered (its SHA-256 is {sha256(content)[:12]}..., wanted {checksum[:12]}...)"
        )
    return content


def present(folder: Path) -> Path:
    """`folder`, or its previous content where a crash fell into the moment of replacement (with a warning).

    Raises `CheckpointError` where there is neither.
    """
    if folder.is_dir():
        return folder
    if previous_of(folder).is_dir():
        warnings.warn(f"{folder}: replacing it was interrupted; the previous one is used", stacklevel=3)
        return previous_of(folder)
    raise CheckpointError(f"{folder}: no such folder; wanted one with weights.safetensors and model.json")

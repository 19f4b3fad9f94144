"""A checkpoint's files from a run or a disk, checked before anybody loads them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tracking.errors import TrackingError
from tracking.places import local_folder

MODEL = "model.json"
CONFIG = "config.yaml"
WEIGHTS = (".safetensors",)
TEXT = (".json", ".yaml", ".yml", ".txt", ".md")
PROGRAMS = (".pt2", ".onnx", ".py")
"""What a pull makes, and never takes from elsewhere."""
FREED = "dmkd.checkpoint"
"""Tag of a run whose checkpoint was taken away (`tracking.retention`), and why."""
PULLED = "pulled.json"
"""Says where a pulled folder came from; only a folder that has it is ever replaced."""


@dataclass(frozen=True)
class Source:
    """Where a checkpoint lies: its `name` for messages, its `files` (relative paths), and `copy(path, folder)`."""

    name: str
    files: tuple[str, ...]
    copy: Callable[[str, Path], None]

    def check(self) -> None:
        """Fetch into a temporary folder and check; raises `TrackingError`."""
        with tempfile.TemporaryDirectory() as folder:
            fetch(self, Path(folder))


def from_folder(folder: Path, name: str = "") -> Source:
    """A checkpoint on disk. Raises `TrackingError` for a folder without model.json, or with links in it."""
    name = name or str(folder)
    if not (folder / MODEL).is_file():
        raise TrackingError(
            f"{name}: no {MODEL} in it, so not a checkpoint; a checkpoint folder has {MODEL} and weights.safetensors"
        )
    files = [path for path in _listed(folder, name) if path != PULLED]
    programs = [path for path in files if path.endswith(PROGRAMS)]
    if programs and (folder / PULLED).is_file():
        raise TrackingError(
            f"{name}: is a pulled folder, with {programs[0]} in it; copy it as it is, or pull its run or version again"
        )

    def copy(path: str, target: Path) -> None:
        _copied(folder / path, target / path)

    return Source(name, tuple(files), copy)


def from_run(uri: str, run_id: str, place: str) -> Source:
    """The artifacts below `place` of a run, and its config.yaml. Raises `TrackingError` for a run without a checkpoint."""
    from tracking.client import connect, translated

    client = connect(uri)
    name = f"runs:/{run_id}/{place}"
    with translated(uri):
        run = client.get_run(run_id)
        root = local_folder(run.info.artifact_uri)
        files = _listed(root / place, name) if root else _remote_files(client, run_id, place)
        # The run's own configuration is that of its checkpoint, not of the other networks that it may keep.
        has_config = place == "checkpoint" and CONFIG in (
            _listed(root, name, deep=False) if root else [item.path for item in client.list_artifacts(run_id)]
        )
    if MODEL not in files and FREED in run.data.tags:
        raise TrackingError(f"{name}: this run's checkpoint was {run.data.tags[FREED]}; `dmkd reproduce ROW` trains it again")
    if MODEL not in files:
        raise TrackingError(f"{name}: no {MODEL} there, so no checkpoint was stored; choose a run that finished")

    def copy(path: str, target: Path) -> None:
        inside = CONFIG if path == CONFIG and path not in files else f"{place}/{path}"
        if root:
            _copied(root / inside, target / path)
            return
        with translated(uri), tempfile.TemporaryDirectory(dir=target) as folder:
            found = Path(client.download_artifacts(run_id, inside, folder))
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            found.replace(target / path)

    return Source(name, tuple(dict.fromkeys([*files, *([CONFIG] if has_config else [])])), copy)


def _listed(folder: Path, name: str, *, deep: bool = True) -> list[str]:
    """Relative paths of the plain files in a folder. Raises `TrackingError` for a link."""
    found = []
    if folder.is_symlink():
        raise TrackingError(f"{name}: is a link; a checkpoint is a plain folder")
    for path in sorted(folder.rglob("*") if deep else folder.glob("*")) if folder.is_dir() else []:
        if path.is_symlink():
            raise TrackingError(f"{name}: {path.name} is a link; a checkpoint holds plain files only")
        if path.is_file():
            found.append(path.relative_to(folder).as_posix())
    return found


def _remote_files(client: object, run_id: str, place: str) -> list[str]:
    found, folders = [], [place]
    while folders:
        for item in client.list_artifacts(run_id, folders.pop()):  # type: ignore[attr-defined]
            _inside(item.path, f"runs:/{run_id}")
            if item.is_dir:
                folders.append(item.path)
            else:
                found.append(str(PurePosixPath(item.path).relative_to(place)))
    return sorted(found)


def _inside(path: str, name: str) -> None:
    if path.startswith("/") or "\\" in path or ".." in PurePosixPath(path).parts or ":" in path:
        raise TrackingError(f"{name}: refused the path {path!r}, which does not stay in its folder")


def _copied(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=False)


def fetch(source: Source, folder: Path) -> None:
    """Put the files of `source` into `folder` and check them; those that are there already, whole, are not fetched again.

    Raises `TrackingError` before anything is fetched where a name leaves its folder or is of no kind that a checkpoint holds.
    """
    for path in source.files:
        _inside(path, source.name)
        if not path.endswith(WEIGHTS + TEXT):
            raise TrackingError(
                f"{source.name}: refused {path!r}; a checkpoint holds {', '.join(WEIGHTS + TEXT)} only, never a pickle"
            )
    for path in set(_listed(folder, source.name)) - set(source.files):
        (folder / path).unlink()
    source.copy(MODEL, folder)
    wanted = _stated(folder, source.name)
    for path in source.files:
        there = (folder / path).is_file() and path in wanted and _sha256(folder / path) == wanted[path]
        if path != MODEL and not there:
            source.copy(path, folder)
    _verify(folder, source.name)


def _stated(folder: Path, name: str) -> dict[str, str]:
    """The SHA-256 of each file that model.json names. Raises `TrackingError` where its own, if it states one, is another."""
    try:
        told = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        wanted = {str(path): str(digest).lower() for path, digest in told["checksums"].items()}
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        raise TrackingError(f"{name}: {MODEL} is damaged or has no 'checksums'; store the checkpoint again") from None
    own = told.pop("sha256", None)
    plain = json.dumps(told, sort_keys=True, ensure_ascii=False).encode()
    if own is not None and hashlib.sha256(plain).hexdigest() != own:
        raise TrackingError(f"{name}: {MODEL} is damaged or altered: its own SHA-256 is another than it states")
    return wanted


def _verify(folder: Path, name: str) -> None:
    """Every file that model.json states is there with its SHA-256, and no weights are there that it does not state."""
    wanted = _stated(folder, name)
    files = _listed(folder, name)
    for path, digest in wanted.items():
        if path not in files:
            raise TrackingError(f"{name}: {path} is missing, though {MODEL} names it; store the checkpoint again")
        if (found := _sha256(folder / path)) != digest:
            raise TrackingError(f"{name}: {path} has SHA-256 {found[:12]}..., wanted {digest[:12]}...: damaged or altered")
    for path in files:
        if path.endswith(WEIGHTS) and path not in wanted:
            raise TrackingError(f"{name}: {path} has no checksum in {MODEL}; weights that nobody vouches for are refused")
        if path.endswith(WEIGHTS):
            _safetensors(folder / path, name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors(path: Path, name: str) -> None:
    """A safetensors file begins with the length of its JSON header: a pickle under a false name does not."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= os.path.getsize(path) - 8 or file.read(1) != b"{":
            raise TrackingError(f"{name}: {path.name} is not a safetensors file")

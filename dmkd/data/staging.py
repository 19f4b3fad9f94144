"""Data that lie behind an address (s3://bucket/cars196, any that fsspec knows): copied once to each machine, under a lock.

A copy is known by its listing (names, sizes, checksums), so that data which change are copied again and never mixed. What the
nodes of a sweep have is then compared by the data set's own fingerprint.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from dmkd.caches import cache_folder
from dmkd.errors import DataError

MARKS = ("ETag", "etag", "checksum", "md5", "mtime", "LastModified")
"""What file systems call the thing that changes when a file does; the first that a listing has is taken."""


def is_address(root: str) -> bool:
    """Whether a root names a place that has to be copied first."""
    return "://" in root


def staged(url: str) -> Path:
    """The folder on this machine that holds what lies at `url`; made by the first process that asks, the others wait.

    It lies in `$DMKD_CACHE` (default: the XDG cache folder). Raises `DataError`: unknown protocol, nothing there, not reachable,
    a name that leaves the folder, a file that arrives with another size.
    """
    fs, root = _file_system(url)
    files = _listing(fs, root, url)
    place = cache_folder() / "staged" / hashlib.sha256(json.dumps([url, files], sort_keys=True).encode()).hexdigest()[:24]
    with _locked(place.with_suffix(".lock")):
        if not place.is_dir():
            _copy(fs, root, files, place, url)
    return place


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: {' '.join(str(error).split())}: install that package on every node, or name a folder") from None
    return fs, str(root).rstrip("/")


def _listing(fs: Any, root: str, url: str) -> dict[str, list[Any]]:
    """{relative path: [bytes, mark]} of every file."""
    try:
        found: Mapping[str, Mapping[str, Any]] = fs.find(root, detail=True)
    except Exception as error:  # each protocol has exceptions of its own
        raise DataError(
            f"{url}: cannot be listed ({' '.join(str(error).split())[:200]}); its credentials come from the environment"
        ) from None
    files = {
        str(PurePosixPath(path).relative_to(PurePosixPath(root))): [info["size"], _mark(info)] for path, info in found.items()
    }
    if not files:
        raise DataError(f"{url}: nothing lies there")
    for name in files:
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            raise DataError(f"{url}: refused the name {name!r}, which does not stay in its folder")
    return files


def _mark(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in MARKS if info.get(name) is not None), "")


def _copy(fs: Any, root: str, files: Mapping[str, list[Any]], place: Path, url: str) -> None:
    """All of it beside its place, then there in one step."""
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=place.parent))
    try:
        for name, (size, _) in files.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{root}/{name}", str(target))
            if target.stat().st_size != size:
                raise DataError(f"{url}/{name}: {target.stat().st_size} bytes arrived, wanted {size}: try again")
        partial.chmod(0o755)
        partial.replace(place)
    except OSError as error:
        raise DataError(
            f"{url}: cannot be copied to {place.parent} ({error.strerror or error}); $DMKD_CACHE names another"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""What `dmkd prepare` found, kept in a file beside the data: hashes of every picture, and which cannot be read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from dmkd import __version__
from dmkd.caches import cache_folder
from dmkd.data.broken import left_out
from dmkd.data.cache import header_fault
from dmkd.data.pictures import Listing, Pictures, seal
from dmkd.errors import DataError

FORMAT = "dmkd-manifest-1"

MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P5", b"P6", b"P2", b"P3")
"""First bytes of picture files."""


@dataclass(frozen=True)
class Seen:
    """What a picture was when it was last read."""

    size: int
    """Bytes."""
    modified: int
    """Nanoseconds, as the file system has it."""
    sha256: str
    phash: str = ""
    """16 hexadecimal digits (`duplicates.phash`); empty where it cannot be read."""
    width: int = 0
    """Of the upright picture."""
    height: int = 0
    reason: str = ""
    """Why it cannot be read; empty where it can."""


Record = Mapping[str, Seen]
"""By path relative to the listing's root."""


def record_places(listing: Listing) -> tuple[Path, Path]:
    """Where the record lies: beside the pictures, or, where that folder cannot be written, in dmkd's cache."""
    place = hashlib.sha256(os.path.abspath(listing.root).encode(errors="surrogateescape")).hexdigest()[:16]
    return (
        Path(listing.root) / f"dmkd-manifest.{listing.name}.json",
        cache_folder() / "manifests" / f"{listing.name}-{place}.json",
    )


def read_record(listing: Listing) -> Record:
    """The newest record of a listing; nothing where there is none, or where it is damaged."""
    there = [place for place in record_places(listing) if place.is_file()]
    for file in sorted(there, key=lambda place: place.stat().st_mtime_ns, reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] == FORMAT:
                return {path: Seen(*row) for path, row in content["pictures"].items()}
    return {}


def write_record(listing: Listing, record: Record) -> Path:
    """Keep a record: whole or not at all. Returns its file. Raises `DataError` where neither place can be written."""
    head = {"format": FORMAT, "name": listing.name, "dmkd": __version__, "columns": list(Seen.__dataclass_fields__)}
    rows = ",\n".join(f"{json.dumps(path)}: {json.dumps(astuple(seen))}" for path, seen in record.items())
    content = json.dumps(head)[:-1] + ', "pictures": {\n' + rows + "\n}}\n"
    problems = []
    for file in record_places(listing):
        try:
            return _write(file, content)
        except OSError as error:
            problems.append(f"{file} ({error.strerror or error})")
    raise DataError(f"{listing.name}: cannot write {' or '.join(problems)}; set $DMKD_CACHE to a folder that can be written")


def _write(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def find_broken(pictures: Pictures) -> dict[str, str]:
    """Path and reason of pictures that cannot be read, at the price of a look at their first bytes: empty, not a picture, or
    found broken by `dmkd prepare` and not changed since. What it found whole, and what kept its size, is not opened."""
    record = read_record(pictures)
    looked = {
        path: _fault(pictures.file(position), int(pictures.sizes[position]), record.get(path))
        for position, path in enumerate(pictures.paths)
    }
    return {path: reason for path, reason in looked.items() if reason}


def _fault(file: str, size: int, seen: Seen | None) -> str:
    if seen is not None and seen.size == size and size:
        if not seen.reason:
            return ""
        if os.stat(file).st_mtime_ns == seen.modified:
            return f"{file}: {seen.reason}"
    try:
        with open(file, "rb") as stream:
            start = stream.read(16)
    except OSError:
        start = b""
    return "" if start.startswith(MAGIC) else header_fault(file)


def without_broken(pictures: Pictures, *, warn: bool = True) -> Pictures:
    """The pictures that can be read, as far as `find_broken` can tell; one warning names the first of the others.

    Where a class loses its last picture, the halves of the classes stay what they were. Raises `DataError` where half are broken.
    """
    reasons = find_broken(pictures)
    if not reasons:
        return pictures
    if 2 * len(reasons) > len(pictures):
        raise DataError(
            f"{pictures.name} in {pictures.root}: {len(reasons)} of {len(pictures)} pictures cannot be read, the first: "
            f"{next(iter(reasons.values()))}; `dmkd prepare {pictures.name} --root {pictures.root}` lists them"
        )
    kept = np.flatnonzero([path not in reasons for path in pictures.paths])
    split = pictures.split
    if split is None and len(np.unique(pictures.labels[kept])) < len(pictures.classes):
        split = tuple("train" if label < len(pictures.classes) // 2 else "test" for label in pictures.labels)
    broken = left_out(pictures.name, pictures.root, reasons, warn=warn)
    return replace(pictures, split=split, broken=broken).part(kept)


def sealed(listing: Listing) -> Pictures:
    """The pictures of a listing as a run sees them: `seal`, then `without_broken`, without a warning. Raises `DataError`."""
    return without_broken(seal(listing), warn=False)

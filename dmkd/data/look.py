"""Reading every picture of a listing once: its bytes, whether it opens, what it shows."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dmkd.data.cache import open_picture
from dmkd.data.duplicates import phash
from dmkd.data.pictures import Listing
from dmkd.data.record import Record, Seen
from dmkd.errors import DataError

CHUNK = 64
"""Pictures that a thread takes at a time."""


def look_at_all(listing: Listing, positions: list[int], before: Record) -> dict[str, Seen]:
    """What each picture is, by path, in order. One whose bytes are those of `before` is read, but not decoded again."""
    from tqdm import tqdm

    chunks = [positions[start : start + CHUNK] for start in range(0, len(positions), CHUNK)]

    def chunk(of: list[int]) -> list[tuple[str, Seen]]:
        named = [(listing.paths[position], listing.file(position)) for position in of]
        return [(path, look(file, before.get(path))) for path, file in named]

    found: dict[str, Seen] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # disable=None: the bar shows in a terminal only.
        for part in tqdm(pool.map(chunk, chunks), total=len(chunks), desc="reading pictures", unit=f"x{CHUNK}", disable=None):
            found |= part
    return found


def look(file: str, before: Seen | None = None) -> Seen:
    """What a picture is, whatever its state."""
    try:
        status = os.stat(file)
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        return Seen(0, 0, "", reason=f"cannot be read ({error.strerror or error}); mend, replace or remove it")
    size, modified = status.st_size, status.st_mtime_ns
    if before is not None and before.sha256 == digest:
        return Seen(size, modified, digest, before.phash, before.width, before.height, before.reason)
    try:
        picture = open_picture(file)
    except DataError as error:
        return Seen(size, modified, digest, reason=str(error).removeprefix(f"{file}: "))
    return Seen(size, modified, digest, f"{phash(picture):016x}", *picture.size)

"""Decoded pictures of a data set on this machine's disk: mapped into memory, shared by every process that reads them.

A picture is decoded by whoever needs it first and appended; from then on every trial of the machine maps it. There is nothing to
build beforehand and nobody waits. Two files: `pixels`, the pictures one after the other, and `index`, a record of one length for
each. A picture is known by its path, size, time of change and what was made of it, so a changed file is another picture. Records
are appended under a lock after their pixels, each with checksums of both, and pixels are checked when a process first reads them:
what a crash left half written is not found, and is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmkd.caches import machine_cache
from dmkd.errors import DataError

Pixels = NDArray[np.uint8]
"""[h, w, 3] RGB."""

LIMIT_GB = "DMKD_DECODED_GB"
"""Environment variable: gigabytes of decoded pictures that a data set may take on this machine's disk (default 64; 0: none)."""
FREE, FREE_SHARE = 10 * 2**30, 0.1
"""Bytes of a disk that are left free, and the share of one that is smaller than that asks for."""
RECORD = struct.Struct("<16sQIIII")
"""Key, offset of the pixels, height, width, checksum of the pixels, checksum of the record."""


def decoded_folder(root: str) -> Path:
    """Where the pictures below `root` are kept: `$DMKD_CACHE/decoded/<machine>/...`, else in `~/.cache/dmkd`."""
    name = hashlib.sha256(os.path.abspath(root).encode()).hexdigest()[:16]
    return machine_cache("decoded") / name


def decoded_limit() -> int:
    """Bytes that `$DMKD_DECODED_GB` allows. Raises `DataError` where it is no whole number."""
    text = os.environ.get(LIMIT_GB, "64")
    if not text.isdecimal():
        raise DataError(f"${LIMIT_GB}: found {text!r}, wanted a whole number of gigabytes")
    return int(text) * 2**30


def picture_key(*parts: object) -> bytes:
    """16 bytes that name a picture by all that its pixels depend on."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


class DecodedPictures:
    """The decoded pictures in a folder. It holds no open file, so that a forked process may go on with it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._told = False
        self._places: dict[bytes, tuple[int, int, int, int]] = {}
        self._checked: set[bytes] = set()
        self._read = 0
        self._mapped: mmap.mmap | None = None

    @property
    def started(self) -> bool:
        """Whether anybody has kept a picture here, and more than none are allowed."""
        return self.limit > 0 and (self.folder / "index").is_file()

    def __len__(self) -> int:
        self._refresh()
        return len(self._places)

    def get(self, key: bytes) -> Pixels | None:
        """[h, w, 3] mapped read-only; None where it is not there, or not whole."""
        if key not in self._places:
            self._refresh()
        place = self._places.get(key)
        if place is None:
            return None
        pixels = self._pixels(*place[:3])
        if pixels is None or (key not in self._checked and zlib.crc32(pixels.data) != place[3]):
            del self._places[key]
            return None
        self._checked.add(key)
        return pixels

    def put(self, key: bytes, pixels: Pixels) -> bool:
        """Keep a picture. False above the limit, and, after one warning, where the disk refuses it or would be too full."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked():
                self._refresh()
                return key in self._places or self._append(key, np.ascontiguousarray(pixels))
        except OSError as error:
            self.limit = 0
            return self._refused(f"cannot be kept ({error.strerror or error})")

    def _refused(self, why: str) -> bool:
        if not self._told:
            self._told = True
            message = f"{self.folder}: decoded pictures {why}; what does not fit in memory is decoded each time"
            warnings.warn(f"{message}. Set $DMKD_CACHE to a folder of another disk", stacklevel=4)
        return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Opened anew each time: a forked process would share its parent's lock.
        with (self.folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _append(self, key: bytes, pixels: Pixels) -> bool:
        with (self.folder / "pixels").open("ab") as file:
            offset = file.seek(0, os.SEEK_END)
            if offset + pixels.nbytes > self.limit:
                return False
            disk = shutil.disk_usage(self.folder)
            left = min(FREE, int(FREE_SHARE * disk.total))
            if disk.free - pixels.nbytes < left:
                have = f"{disk.free / 2**30:.1f} GiB of the disk are free"
                return self._refused(f"are not added: {have}, {left / 2**30:.1f} stay so")
            try:
                file.write(pixels.data)
                file.flush()
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(offset)
                raise
        height, width, _ = pixels.shape
        record = RECORD.pack(key, offset, height, width, zlib.crc32(pixels.data), 0)[:-4]
        with (self.folder / "index").open("ab") as index:
            index.truncate(index.seek(0, os.SEEK_END) // RECORD.size * RECORD.size)
            index.write(record + struct.pack("<I", zlib.crc32(record)))
        return True

    def _refresh(self) -> None:
        """Learn of the pictures that were added since."""
        index = self.folder / "index"
        with contextlib.suppress(FileNotFoundError):
            if index.stat().st_size < self._read:  # somebody emptied the folder
                self._places, self._checked, self._read, self._mapped = {}, set(), 0, None
            if index.stat().st_size < self._read + RECORD.size:
                return
            with index.open("rb") as file:
                file.seek(self._read)
                content = file.read()
            content = content[: len(content) // RECORD.size * RECORD.size]
            self._read += len(content)
            for start in range(0, len(content), RECORD.size):
                record = content[start : start + RECORD.size]
                key, offset, height, width, checksum, own = RECORD.unpack(record)
                if zlib.crc32(record[:-4]) == own:
                    self._places[key] = offset, height, width, checksum

    def _pixels(self, offset: int, height: int, width: int) -> Pixels | None:
        stop = offset + 3 * height * width
        if self._mapped is None or len(self._mapped) < stop:
            try:
                with (self.folder / "pixels").open("rb") as file:
                    self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):
                return None
            if len(self._mapped) < stop:
                return None
        pixels: Pixels = np.frombuffer(self._mapped, np.uint8, stop - offset, offset).reshape(height, width, 3)
        return pixels

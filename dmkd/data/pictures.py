"""What a data set is to the rest of dmkd: pictures with class numbers, and a fingerprint of both."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmkd.errors import DataError

if TYPE_CHECKING:
    from dmkd.data import Data

Labels = NDArray[np.int64]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File names that are taken for pictures."""


@dataclass(frozen=True, eq=False)
class Listing:
    """What a data set's folder or annotation promises: nothing has been opened, files may be missing."""

    name: str
    root: Path
    paths: tuple[str, ...]
    """[N] relative to `root`, with forward slashes."""
    labels: Labels
    """[N] positions in `classes`."""
    classes: tuple[str, ...]
    """[C] class names, in the data set's own order: "the first half of the classes" goes by it."""
    groups: Labels | None = None
    """[N] group numbers (a manifest column, a vendor): junk of the strict protocol."""
    split: tuple[str, ...] | None = None
    """[N] "train", "val" or "test"; None: the first half of the classes trains, the second half tests."""

    def file(self, position: int) -> str:
        """The whole path of a picture."""
        return os.path.join(self.root, self.paths[position])


@dataclass(frozen=True, eq=False)
class Pictures(Listing):
    """A listing whose files are all there."""

    sizes: Labels = None  # type: ignore[assignment]
    """[N] bytes of each file."""
    fingerprint: str = ""
    """16 hexadecimal digits of a SHA-256 over every picture's path, class, group, split and file size (not its bytes: cheap)."""

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, positions: Sequence[int] | Labels) -> Pictures:
        """The pictures at `positions`, in that order; classes keep their order and are renumbered 0 .. c - 1."""
        chosen = np.asarray(positions, dtype=np.int64)
        kept, labels = np.unique(self.labels[chosen], return_inverse=True)
        listing = Listing(
            name=self.name,
            root=self.root,
            paths=tuple(self.paths[position] for position in chosen),
            labels=labels.reshape(-1).astype(np.int64),
            classes=tuple(self.classes[label] for label in kept),
            groups=None if self.groups is None else self.groups[chosen],
            split=None if self.split is None else tuple(self.split[position] for position in chosen),
        )
        return _sealed(listing, self.sizes[chosen])


@dataclass(frozen=True)
class DatasetInfo:
    """A row of `dmkd datasets`."""

    name: str
    summary: str
    layout: str
    """What must lie below the root, in one line."""
    source: str
    """Where to get it."""
    licence: str
    listing: Callable[[Path, Data], Listing]
    """Reads names and classes below a root; raises `DataError`."""
    classes: int | None = None
    images: int | None = None
    train_images: int | None = None
    """Pictures of the training classes, where the field agrees on them."""
    default_root: Callable[[], Path] | None = None
    """For data sets that dmkd makes itself: where, if neither `data.root` nor `$DMKD_DATA` says so."""


def make_listing(
    name: str,
    root: Path,
    rows: Iterable[tuple[str, str]],
    *,
    classes: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
) -> Listing:
    """A listing from (path, class name) rows; `classes` fixes the order of classes (default: sorted names).

    Raises `DataError` for a path that is absolute or climbs out of `root`.
    """
    pairs = list(rows)
    for path, _ in pairs:
        check_inside(path, name)
    order = tuple(classes) if classes is not None else tuple(sorted({label for _, label in pairs}))
    return Listing(
        name=name,
        root=root,
        paths=tuple(path for path, _ in pairs),
        labels=_numbered([label for _, label in pairs], order),
        classes=order,
        groups=None if groups is None else _numbered(groups, sorted(set(groups))),
        split=None if split is None else tuple(split),
    )


def check_inside(path: str, where: str) -> None:
    """Raise `DataError` if a relative path of an annotation would leave its folder."""
    if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
        raise DataError(f"{where}: the path {path!r} leaves the data set's folder; wanted a path relative to it, with '/'")


def seal(listing: Listing) -> Pictures:
    """Pictures of a listing. Raises `DataError` if there are none, or if files are missing (how many, and the first)."""
    if not listing.paths:
        raise DataError(
            f"{listing.name}: no pictures in {listing.root}; `dmkd prepare {listing.name}` says what is expected there"
        )
    sizes = file_sizes(listing)
    missing = np.flatnonzero(sizes < 0)
    if missing.size:
        raise DataError(
            f"{listing.name} in {listing.root}: {missing.size} of {len(listing.paths)} pictures are missing, first "
            f"{listing.paths[missing[0]]}; `dmkd prepare {listing.name} --root {listing.root}` lists them"
        )
    return _sealed(listing, sizes)


def file_sizes(listing: Listing) -> Labels:
    """[N] bytes of each file; -1 where there is none."""
    return np.fromiter((_size(listing.file(position)) for position in range(len(listing.paths))), np.int64, len(listing.paths))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _numbered(names: Sequence[str], order: Sequence[str]) -> Labels:
    numbers = {name: number for number, name in enumerate(order)}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _sealed(listing: Listing, sizes: Labels) -> Pictures:
    return Pictures(**vars(listing), sizes=sizes, fingerprint=_fingerprint(listing, sizes))


def _fingerprint(listing: Listing, sizes: Labels) -> str:
    digest = hashlib.sha256()
    for position, path in enumerate(listing.paths):
        group = None if listing.groups is None else int(listing.groups[position])
        split = None if listing.split is None else listing.split[position]
        row: list[Any] = [path, listing.classes[listing.labels[position]], group, split, int(sizes[position])]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]

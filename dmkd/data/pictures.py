"""What a data set is to the rest of dmkd: pictures with class numbers, and a fingerprint of both."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmkd.data.broken import Broken
from dmkd.errors import DataError

if TYPE_CHECKING:
    from dmkd.data import Data

Labels = NDArray[np.int64]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File names that are taken for pictures."""

QUERY, GALLERY = 1, 2
"""Roles of a picture that is not on both sides of a search."""


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
    boxes: Labels | None = None
    """[N, 4] left, top, width, height of the object in pixels of the upright picture (a width of 0: no box); None: no boxes."""
    pairs: Labels | None = None
    """[P, 2] positions of pictures known to match (query, positive), where a class says less than that (landmarks: parts of one
    building that share no view); None: any two of a class match."""
    role: Labels | None = None
    """[N] `QUERY`: it asks and is not found; `GALLERY`: it is found and does not ask; 0: both. None: all do both."""
    faults: tuple[str, ...] = ()
    """What of the folder or annotation is wrong, a sentence each; the rows concerned are left out."""

    def file(self, position: int) -> str:
        """The whole path of a picture."""
        return os.path.join(self.root, self.paths[position])


@dataclass(frozen=True, eq=False)
class Pictures(Listing):
    """A listing whose files are all there."""

    sizes: Labels = None  # type: ignore[assignment]
    """[N] bytes of each file."""
    fingerprint: str = ""
    """16 hexadecimal digits of a SHA-256 over every picture's path, class, group, split and file size (not its bytes: cheap; nor
    its box, without which most runs do: see `Parts.quality`), and over the pairs and roles."""
    broken: Broken = field(default_factory=Broken)
    """What of the data set cannot be read; one object for all its parts."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def skipped(self) -> dict[str, float]:
        """`data/skipped`, how many pictures of the whole data set the run does without; empty where none."""
        return {"data/skipped": float(len(self.broken))} if self.broken else {}

    def readable(self) -> NDArray[np.bool_]:
        """[N] whether no attempt to read a picture has failed so far."""
        return np.array([path not in self.broken.reasons for path in self.paths], dtype=np.bool_)

    def met(self, found: Mapping[str, str]) -> list[str]:
        """Take note of broken pictures (path: reason). Returns what to warn of (`Broken.add`).

        Raises `DataError` where they are more than half of these pictures.
        """
        if not found:
            return []
        told = self.broken.add(found)
        lost = np.flatnonzero(~self.readable())
        if 2 * lost.size > len(self):
            raise DataError(
                f"{self.name} in {self.root}: {lost.size} of {len(self)} pictures cannot be read, the first: "
                f"{self.broken.reasons[self.paths[lost[0]]]}; is the disk there? `dmkd prepare {self.name}` lists them"
            )
        return told

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
            boxes=None if self.boxes is None else self.boxes[chosen],
            pairs=None if self.pairs is None else _pairs_inside(self.pairs, chosen, len(self)),
            role=None if self.role is None else self.role[chosen],
        )
        return _sealed(listing, self.sizes[chosen], self.broken)


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
    query_images: int | None = None
    """Pictures that only ask, where queries and gallery are lists of their own."""
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
    boxes: Sequence[Sequence[int]] | None = None,
    pairs: Labels | None = None,
    role: Sequence[int] | None = None,
    faults: Sequence[str] = (),
) -> Listing:
    """A listing from (path, class name) rows; `classes` fixes the order of classes (default: sorted names).

    Raises `DataError` for a path that is absolute or climbs out of `root`.
    """
    named = list(rows)
    for path, _ in named:
        check_inside(path, name)
    order = tuple(classes) if classes is not None else tuple(sorted({label for _, label in named}))
    return Listing(
        name=name,
        root=root,
        paths=tuple(path for path, _ in named),
        labels=_numbered([label for _, label in named], order),
        classes=order,
        groups=None if groups is None else _numbered(groups, sorted(set(groups))),
        split=None if split is None else tuple(split),
        boxes=None if boxes is None else np.array(boxes, dtype=np.int64).reshape(-1, 4),
        pairs=pairs,
        role=None if role is None else np.array(role, dtype=np.int64),
        faults=tuple(faults),
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
    return _sealed(listing, sizes, Broken())


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


def _pairs_inside(pairs: Labels, chosen: Labels, count: int) -> Labels:
    """The pairs of which both pictures are chosen, as positions among these."""
    place = np.full(count, -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    moved: Labels = place[pairs]
    return moved[(moved >= 0).all(axis=1)]


def _sealed(listing: Listing, sizes: Labels, broken: Broken) -> Pictures:
    return Pictures(**vars(listing), sizes=sizes, fingerprint=_fingerprint(listing, sizes), broken=broken)


def _fingerprint(listing: Listing, sizes: Labels) -> str:
    digest = hashlib.sha256()
    for position, path in enumerate(listing.paths):
        group = None if listing.groups is None else int(listing.groups[position])
        split = None if listing.split is None else listing.split[position]
        row: list[Any] = [path, listing.classes[listing.labels[position]], group, split, int(sizes[position])]
        digest.update(json.dumps(row).encode() + b"\n")
    if listing.pairs is not None:
        digest.update(listing.pairs.astype("<i8").tobytes())
    if listing.role is not None and listing.role.any():
        digest.update(b"roles" + listing.role.astype("<i8").tobytes())
    return digest.hexdigest()[:16]

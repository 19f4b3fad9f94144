"""`dmkd prepare`: is a data set all there, and can every picture be read? It looks, counts and names; it deletes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmkd.data import Data
from dmkd.data.cache import open_picture
from dmkd.data.datasets import dataset_info, list_dataset
from dmkd.data.pictures import Listing, file_sizes, seal
from dmkd.errors import DataError

SHOWN = 5
"""Names that a line shows before it only counts."""


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    name: str
    root: str
    images: int
    """Pictures that the folder or annotation names."""
    classes: int
    lonely: tuple[str, ...]
    """Classes with one picture: never a query with a positive; refused by samplers without replacement."""
    missing: tuple[str, ...]
    """Paths that are named but not there."""
    broken: tuple[tuple[str, str], ...]
    """(path, reason) of pictures that cannot be read."""
    unexpected: tuple[str, ...]
    """Counts that differ from those that the field knows, a sentence each."""
    fingerprint: str
    """Of the data set, as a run records it; empty while pictures are missing."""

    @property
    def ok(self) -> bool:
        """Whether every picture is there and readable and the known counts agree."""
        return not (self.missing or self.broken or self.unexpected)

    def lines(self) -> list[str]:
        """The report for a terminal."""
        lines = [f"{self.name} in {self.root}: {self.images} pictures, {self.classes} classes", *self.unexpected]
        lines += _some("missing", self.missing)
        lines += _some("cannot be read", [reason for _, reason in self.broken])
        lines += _some("classes with one picture", self.lonely)
        return [
            *lines,
            f"fingerprint {self.fingerprint}" if self.ok else "not ready: mend what is named above, then run it again",
        ]


def check(name: str, root: str = "", *, decode: bool = True, data: Data | None = None) -> Report:
    """Look at every picture of a data set below `root` (as `data.root`), decoding each unless `decode` is off.

    Raises `DataError` only where the folder or its annotation cannot be read at all.
    """
    listing = list_dataset(data or Data(name=name, root=root))
    sizes = file_sizes(listing)
    missing = [listing.paths[position] for position in np.flatnonzero(sizes < 0)]
    present = np.flatnonzero(sizes >= 0).tolist()
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    return Report(
        name=listing.name,
        root=str(listing.root),
        images=len(listing.paths),
        classes=len(listing.classes),
        lonely=tuple(listing.classes[label] for label in np.flatnonzero(counts == 1)),
        missing=tuple(missing),
        broken=_broken(listing, present) if decode else (),
        unexpected=tuple(_unexpected(listing)),
        fingerprint="" if missing else seal(listing).fingerprint,
    )


def _broken(listing: Listing, positions: list[int]) -> tuple[tuple[str, str], ...]:
    from tqdm import tqdm

    found = []
    for position in tqdm(positions, desc="reading pictures", unit="picture", disable=None):
        try:
            open_picture(listing.file(position))
        except DataError as error:
            found.append((listing.paths[position], str(error)))
    return tuple(found)


def _unexpected(listing: Listing) -> list[str]:
    info = dataset_info(listing.name)
    train = None if listing.split is None else listing.split.count("train")
    pairs = [
        ("classes", len(listing.classes), info.classes),
        ("pictures", len(listing.paths), info.images),
        ("pictures of training classes", train, info.train_images),
    ]
    return [
        f"found {found} {what}, known are {known}"
        for what, found, known in pairs
        if None not in (found, known) and found != known
    ]


def _some(what: str, names: tuple[str, ...] | list[str]) -> list[str]:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} {what}: {'; '.join(names[:SHOWN])}{rest}"] if names else []

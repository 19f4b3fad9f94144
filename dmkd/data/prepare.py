"""`dmkd prepare`: is a data set all there, and can every picture be read? It looks, counts, names and keeps hashes; it deletes
nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dmkd.data import LANDMARKS, Data
from dmkd.data.datasets import dataset_info, read_listing
from dmkd.data.look import look_at_all
from dmkd.data.overlaps import Overlaps, find_overlaps
from dmkd.data.pictures import QUERY, Listing, file_sizes
from dmkd.data.record import Record, read_record, sealed, write_record
from dmkd.data.splits import class_parts
from dmkd.data.widths import Width, queries_of, width_of
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
    """(path, reason) of pictures that cannot be read: a run leaves them out and counts them."""
    unexpected: tuple[str, ...]
    """Counts that differ from those that the field knows, a sentence each."""
    fingerprint: str
    """Of the data set, as a run records it; empty while pictures are missing."""
    faults: tuple[str, ...] = ()
    """What is wrong with the folder or the annotation, a sentence each."""
    outside: tuple[str, ...] = ()
    """Pictures whose box lies beyond their edge."""
    changed: tuple[str, ...] = ()
    """Pictures whose bytes are not those of the last time."""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    """Paths that are listed now and were not the last time, and the other way round."""
    parts: str = ""
    """How the classes are split, in a sentence."""
    overlaps: Overlaps = Overlaps()
    widths: tuple[Width, ...] = ()
    record: str = ""
    """The file that keeps the hashes; empty where nothing was read."""

    @property
    def ok(self) -> bool:
        """Whether every picture is there and readable, the known counts agree and the annotation is in order."""
        return not (self.missing or self.broken or self.unexpected or self.faults or self.outside)

    def lines(self) -> list[str]:
        """The report for a terminal."""
        lines = [f"{self.name} in {self.root}: {self.images} pictures, {self.classes} classes", *self.unexpected]
        lines += _some("faults", self.faults)
        lines += _some("missing", self.missing)
        lines += _some("cannot be read", [reason for _, reason in self.broken])
        lines += _some("boxes outside their picture", self.outside)
        for what in ("changed", "added", "removed"):
            lines += _some(f"{what} since the last time", getattr(self, what))
        lines += _some("classes with one picture", self.lonely)
        lines += [self.parts] if self.parts else []
        for what, pairs in self.overlaps.named().items():
            lines += _some(what, pairs)
        lines += [width.line() for width in self.widths]
        lines += [f"hashes of all pictures: {self.record}"] if self.record else []
        return [printable(line) for line in [*lines, self._verdict()]]

    def _verdict(self) -> str:
        if self.ok:
            return f"fingerprint {self.fingerprint}"
        if self.fingerprint and not (self.faults or self.unexpected or self.outside):
            return f"usable without the broken pictures, which runs leave out and count: fingerprint {self.fingerprint}"
        return "not ready: mend what is named above, then run it again"


def check(name: str, root: str = "", *, decode: bool = True, data: Data | None = None) -> Report:
    """Look at every picture of a data set below `root` (as `data.root`), and keep what was found for runs and for the next time.

    Without `decode` no picture is opened and nothing is kept. Raises `DataError` only where the folder or its annotation cannot
    be read at all.
    """
    listing = read_listing(data or Data(name=name, root=root))
    sizes = file_sizes(listing)
    before = read_record(listing) if decode else {}
    now = look_at_all(listing, np.flatnonzero(sizes >= 0).tolist(), before) if decode else {}
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    file = str(write_record(listing, now)) if now else ""
    faults, parts = listing.faults, _parts(listing)
    if isinstance(parts, DataError):
        faults = (*faults, str(parts))
    missing = tuple(listing.paths[position] for position in np.flatnonzero(sizes < 0))
    return Report(
        name=listing.name,
        root=str(listing.root),
        images=len(listing.paths),
        classes=len(listing.classes),
        lonely=tuple(listing.classes[label] for label in np.flatnonzero(counts == 1)),
        missing=missing,
        broken=tuple((path, f"{path}: {seen.reason}") for path, seen in now.items() if seen.reason),
        unexpected=tuple(_unexpected(listing)),
        fingerprint="" if missing or not listing.paths else _fingerprint(listing),
        faults=faults,
        outside=tuple(_outside(listing, now)),
        **_differences(listing, before, now),
        **({} if isinstance(parts, DataError) else _told(listing, parts, now)),
        record=file,
    )


def _fingerprint(listing: Listing) -> str:
    try:
        return sealed(listing).fingerprint
    except DataError:  # more than half are broken, each of which is named
        return ""


def _parts(listing: Listing) -> list[str] | DataError:
    """The part of each class; none for a test set of its own."""
    try:
        return [] if listing.name in LANDMARKS else class_parts(listing)
    except DataError as error:
        return error


def _told(listing: Listing, parts: list[str], record: Record) -> dict[str, Any]:
    """The split in a sentence, what its parts share, and the widths of its intervals."""
    if not parts:
        return {}
    classes = {name: [label for label, part in enumerate(parts) if part == name] for name in ("train", "val", "test")}
    said = ", ".join(f"{len(labels)} {name}" for name, labels in classes.items() if labels)
    how = "split" if listing.split is not None else "no split is given; proposed, the first half of the classes trains"
    trained = classes["train"] + classes["val"]
    asked = {"test": classes["test"], "its validation": classes["val"] or trained[: round(Data().validation * len(trained))]}
    widths = [width_of(part, queries_of(listing, labels)) for part, labels in asked.items() if labels]
    return {
        "parts": f"{how}: {said} classes",
        "overlaps": find_overlaps(listing, parts, record),
        "widths": tuple(width for width in widths if width is not None),
    }


def _differences(listing: Listing, before: Record, now: Record) -> dict[str, Any]:
    if not before:
        return {}
    known = set(listing.paths)
    return {
        "changed": tuple(path for path, seen in now.items() if path in before and before[path].sha256 != seen.sha256),
        "added": tuple(path for path in now if path not in before),
        "removed": tuple(path for path in before if path not in known),
    }


def _outside(listing: Listing, record: Record) -> list[str]:
    if listing.boxes is None:
        return []
    found = []
    for path, (left, top, width, _) in zip(listing.paths, listing.boxes.tolist(), strict=True):
        seen = record.get(path)
        if seen and width and seen.width and (left >= seen.width or top >= seen.height):
            found.append(f"{path} ({seen.width} x {seen.height}, box from {left}, {top})")
    return found


def _unexpected(listing: Listing) -> list[str]:
    info = dataset_info(listing.name)
    train = None if listing.split is None else listing.split.count("train")
    queries = None if listing.role is None else int((listing.role == QUERY).sum())
    pairs = [
        ("classes", len(listing.classes), info.classes),
        ("pictures", len(listing.paths), info.images),
        ("pictures of training classes", train, info.train_images),
        ("queries", queries, info.query_images),
    ]
    return [
        f"found {found} {what}, known are {known}"
        for what, found, known in pairs
        if None not in (found, known) and found != known
    ]


def _some(what: str, names: tuple[str, ...] | list[str]) -> list[str]:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} {what}: {'; '.join(names[:SHOWN])}{rest}"] if names else []


def printable(text: str) -> str:
    """`text` with the bytes of file names that are not UTF-8 escaped, so that any terminal takes it."""
    return text.encode("utf-8", "backslashreplace").decode()

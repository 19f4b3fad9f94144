"""What the parts of a split share that they must not: the same or nearly the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmkd.data.duplicates import near_pairs, same_bytes
from dmkd.data.pictures import Labels, Listing
from dmkd.data.record import Record


@dataclass(frozen=True)
class Overlaps:
    """Pairs of pictures, the earlier part's first."""

    same: tuple[tuple[str, str], ...] = ()
    """Byte for byte the same, in two parts."""
    near: tuple[tuple[str, str, int], ...] = ()
    """Nearly the same, in two parts, and the bits in which their hashes differ: look at them."""
    torn: tuple[tuple[str, str], ...] = ()
    """Byte for byte the same, in two classes of one part."""

    def named(self) -> dict[str, list[str]]:
        """What, and each pair in words."""
        return {
            "pictures stand in two parts": [f"{one} = {other}" for one, other in self.same],
            "near-duplicates across parts (look at them)": [f"{one} ~ {other}" for one, other, _ in self.near],
            "pictures stand in two classes": [f"{one} = {other}" for one, other in self.torn],
        }


def find_overlaps(listing: Listing, parts: list[str], record: Record) -> Overlaps:
    """Pictures of test classes that training knows (validation included), and of validation classes that training knows.

    `parts` [C] are the classes'. Pictures that are not in the record, or cannot be read, are not compared.
    """
    where = np.array([parts[label] for label in listing.labels.tolist()])
    readable = np.array([path in record and not record[path].reason for path in listing.paths], dtype=np.bool_)
    sides = [(np.flatnonzero(readable & (where != "test")), np.flatnonzero(readable & (where == "test")))]
    sides += [(np.flatnonzero(readable & (where == "train")), np.flatnonzero(readable & (where == "val")))]
    same: list[tuple[str, str]] = []
    near: list[tuple[str, str, int]] = []
    for left, right in sides:
        more, alike = _between(listing, record, left, right)
        same, near = same + more, near + alike
    return Overlaps(tuple(same), tuple(near), tuple(_torn(listing, where, record)))


def _between(
    listing: Listing, record: Record, left: Labels, right: Labels
) -> tuple[list[tuple[str, str]], list[tuple[str, str, int]]]:
    if not left.size or not right.size:
        return [], []
    names = [[listing.paths[position] for position in side] for side in (left, right)]
    digests = [[record[path].sha256 for path in side] for side in names]
    hashes = [np.array([int(record[path].phash, 16) for path in side], dtype=np.uint64) for side in names]
    same = [(names[0][i], names[1][j]) for i, j in same_bytes(*digests)]
    alike = [(names[0][i], names[1][j], bits) for i, j, bits in near_pairs(*hashes) if digests[0][i] != digests[1][j]]
    return same, alike


def _torn(listing: Listing, where: NDArray[np.str_], record: Record) -> list[tuple[str, str]]:
    first: dict[tuple[str, str], int] = {}
    torn = []
    for position, path in enumerate(listing.paths):
        if path not in record or not record[path].size:
            continue
        other = first.setdefault((str(where[position]), record[path].sha256), position)
        if listing.labels[other] != listing.labels[position]:
            torn.append((listing.paths[other], path))
    return torn

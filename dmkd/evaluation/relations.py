"""Which pictures are a query's positives, and which are junk to it: whatever carries the same key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmkd.evaluation.arrays import Integers


class Matches:
    """For each query, the gallery positions that carry its key, ascending."""

    def __init__(self, query_keys: NDArray[Any], gallery_keys: NDArray[Any]) -> None:
        self.keys = query_keys, gallery_keys
        self.order = np.argsort(gallery_keys, kind="stable")
        ordered = gallery_keys[self.order]
        self.left = np.searchsorted(ordered, query_keys, "left")
        self.right = np.searchsorted(ordered, query_keys, "right")

    def pairs(self, start: int, stop: int) -> tuple[Integers, Integers]:
        """(row, gallery position) of every match of the queries start .. stop - 1, row 0 being the first of them."""
        left = self.left[start:stop]
        count = self.right[start:stop] - left
        first = np.cumsum(count) - count
        return np.repeat(np.arange(len(left)), count), self.order[np.arange(count.sum()) + np.repeat(left - first, count)]

    def hold(self, queries: Integers, gallery: Integers) -> NDArray[np.bool_]:
        """Which of the pairs match."""
        held: NDArray[np.bool_] = self.keys[0][queries] == self.keys[1][gallery]
        return held


class Relations:
    """What queries and gallery pictures are to each other; a picture that leaves a query's ranking is junk to it."""

    def __init__(self, mates: Matches, junk: Sequence[Matches] = ()) -> None:
        self.mates, self.junk = mates, junk

    def count(self) -> int:
        """Pairs of one label, junk among them."""
        return int((self.mates.right - self.mates.left).sum())

    def positives(self, start: int, stop: int) -> tuple[Integers, Integers]:
        """(row, gallery position) of the positives of the queries start .. stop - 1, without junk; row 0 is the first of them."""
        rows, columns = self.mates.pairs(start, stop)
        kept = ~self.are_junk(start + rows, columns)
        return rows[kept], columns[kept]

    def are_positive(self, queries: Integers, gallery: Integers) -> NDArray[np.bool_]:
        """Which of the pairs are of one label."""
        return self.mates.hold(queries, gallery)

    def are_junk(self, queries: Integers, gallery: Integers) -> NDArray[np.bool_]:
        """Which of the pairs are junk."""
        found = np.zeros(len(queries), np.bool_)
        for junk in self.junk:
            found |= junk.hold(queries, gallery)
        return found

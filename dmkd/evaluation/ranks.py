"""Ranks of positives, and what the metrics make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmkd.evaluation.arrays import Floats, Integers


@dataclass(frozen=True)
class Ranks:
    """Where the positives of some queries stand; junk does not count."""

    query: Integers
    """[n] position of each query that has a positive."""
    count: Integers
    """[n] its positives."""
    rank: Integers
    """[sum of count] 1-based ranks, ascending within a query; queries one after the other."""

    @cached_property
    def start(self) -> Integers:
        """[n] where a query's ranks begin."""
        return np.cumsum(self.count) - self.count

    @cached_property
    def nth(self) -> Integers:
        """[sum of count] 1 for a query's first positive, 2 for its second, ..."""
        return np.arange(1, len(self.rank) + 1) - np.repeat(self.start, self.count)

    def sum(self, values: NDArray[Any]) -> Floats:
        """[n] sum of one value a positive over each query."""
        return np.add.reduceat(values.astype(np.float64), self.start) if len(self.start) else np.zeros(0)

    def first(self) -> Integers:
        """[n] rank of the first hit."""
        return self.rank[self.start]

    def average_precision(self, form: str = "step", at: int | None = None) -> Floats:
        """[n] AP; `at` cuts the ranking after so many items and divides by min(positives, at), "released" by positives + 1."""
        terms = AP_TERMS[form](self.rank, self.nth)
        total = self.sum(terms if at is None else terms * (self.rank <= at))
        if form == "released":
            return total / (self.count + 1)
        return total / (self.count if at is None else np.minimum(self.count, at))

    def average_precision_at_r(self, extra: int = 0) -> Floats:
        """[n] AP over the first R items, divided by R; R = positives + `extra`."""
        depth = self.count + extra
        return self.sum(self.nth / self.rank * (self.rank <= np.repeat(depth, self.count))) / depth

    def r_precision(self) -> Floats:
        """[n] share of positives among the first R items, R = positives."""
        return self.sum(self.rank <= np.repeat(self.count, self.count)) / self.count

    def precision(self, k: int) -> Floats:
        """[n] positives among the first k, divided by min(k, rank of the last positive)."""
        last: Integers = self.rank[self.start + self.count - 1]
        return self.sum(self.rank <= k) / np.minimum(k, last)


def _step(rank: Integers, nth: Integers) -> Floats:
    precision: Floats = nth / rank
    return precision


def _trapezoidal(rank: Integers, nth: Integers) -> Floats:
    before = np.where(rank == 1, 1.0, (nth - 1) / np.maximum(rank - 1, 1))
    mean: Floats = (before + nth / rank) / 2
    return mean


AP_TERMS = {"step": _step, "trapezoidal": _trapezoidal, "released": _step}


def collect(found: Sequence[tuple[int, Integers]]) -> Ranks:
    """`Ranks` of (query, its ascending ranks) pairs."""
    ranks = [rank for _, rank in found]
    count = np.array([len(rank) for rank in ranks], dtype=np.int64)
    return Ranks(np.array([query for query, _ in found], dtype=np.int64), count, np.concatenate(ranks) if ranks else count)

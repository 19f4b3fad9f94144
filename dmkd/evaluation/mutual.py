"""Ranks on the host where every query is in the gallery too: one product of two pictures serves both of them.

The similarities are cut into squares, and of two squares that mirror each other one is multiplied. Nothing is kept of it but the
cells that may stand above a picture's last positive; how far that reaches is known beforehand, from the positives' own products
less what their rounding may differ by. What is kept waits for the rest of its rows, and is then put in order by one sort.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from dmkd.evaluation.arrays import Floats, Integers
from dmkd.evaluation.even import TILE, Product, even_product, padded
from dmkd.evaluation.host_ranks import keys, positions
from dmkd.evaluation.ranks import Ranks
from dmkd.evaluation.relations import Relations
from dmkd.evaluation.threads import host_threads

EDGE = 10 * TILE
"""Rows and columns of a square: with its flags it fits a core's cache."""
SMALL = 8192
"""Pictures below which halving the product gains little."""
SAMPLE = 512
"""Pictures that tell how many cells of a row would be kept."""
CELLS = 1 << 27
"""Cells to keep of all rows, as the sample foretells them, at most; they take 8 bytes each, and about a quarter of them wait
at a time: after t of the rows the part t (1 - t)."""
KEEPING = 12_288
"""And D / 12,288 of all cells at most: there keeping them takes about as long as half of the product (an AVX-512 machine)."""
COLUMN_BITS = 22
"""A cell's key has 63 bits: 9 for its row in the square, 32 for the float32, these for its column."""

PAIRS = 64
"""Positives of a picture, on average, up to which their products are worth making beforehand."""
STEP = 1 << 14
"""Products of single pairs that are made at once."""


@dataclass
class Mutual:
    """Pictures x [N, D], float32, each a query and in the gallery; with `first` only its best positive is ranked."""

    x: NDArray[np.float32]
    relations: Relations
    first: bool = False

    @cached_property
    def low(self) -> NDArray[np.float32]:
        """[N] what the similarity of no positive (with `first`: of the best) lies below, whatever order it is added up in."""
        lengths = np.sqrt(np.einsum("nd,nd->n", self.x, self.x, dtype=np.float64))
        # Two products in float32 are each within D * 2^-24 * |a| * |b| of the true one, to first order (Higham 2002,
        # eq. 3.5); what is smaller than 2^-126 may be lost.
        dim = self.x.shape[1]
        slack = 2.1 * dim * 2.0**-24 * lengths * lengths.max() + dim * 2.0**-125
        low = np.full(len(self.x), np.inf)
        for start in range(0, len(self.x), EDGE):
            rows, columns = self.relations.positives(start, min(start + EDGE, len(self.x)))
            if len(rows):
                scores = self._of_pairs(start + rows, columns)
                begins = np.flatnonzero(np.diff(rows, prepend=-1))
                low[start + rows[begins]] = (np.maximum if self.first else np.minimum).reduceat(scores, begins)
        below: NDArray[np.float32] = np.nextafter((low - slack).astype(np.float32), np.float32(-np.inf))
        return below

    def _of_pairs(self, one: Integers, other: Integers) -> NDArray[np.float32]:
        parts = (slice(start, start + STEP) for start in range(0, len(one), STEP))
        return np.concatenate([np.einsum("nd,nd->n", self.x[one[part]], self.x[other[part]]) for part in parts])

    @cached_property
    def share(self) -> Floats:
        """[N] the part of the gallery that stands above `low`, in a sample."""
        drawn = self.x[np.linspace(0, len(self.x) - 1, SAMPLE).astype(np.int64)].T
        parts = (slice(start, start + EDGE) for start in range(0, len(self.x), EDGE))
        return np.concatenate([(self.x[part] @ drawn >= self.low[part, None]).mean(axis=1) for part in parts])

    @property
    def multiply(self) -> Product | None:
        """A product that rounds alike from both sides."""
        return even_product(self.x.dtype, self.x.shape[1])

    def pays(self) -> bool:
        """Whether squares can be had, and are worth it: few cells to keep."""
        total, dim = self.x.shape
        if total < SMALL or total >> COLUMN_BITS or self.relations.count() > PAIRS * total:
            return False
        if self.share.sum() * total > min(CELLS, total * total * dim / KEEPING):
            return False
        return self.multiply is not None

    def ranks(self) -> Iterator[Ranks]:
        """`Ranks` of one row of squares after the other; `pays` was asked before."""
        multiply = self.multiply
        assert multiply is not None
        x = padded(self.x)
        low = np.append(self.low, np.full(len(x) - len(self.x), np.inf, np.float32))
        starts = range(0, len(self.x), EDGE)
        kept: list[list[Integers]] = [[] for _ in starts]
        squares = threading.local()

        def keep(start: int) -> None:
            square = getattr(squares, "own", None) or _Square(multiply)
            squares.own = square
            for other in range(start, len(self.x), EDGE):
                sides = slice(start, start + EDGE), slice(other, other + EDGE)
                row, column, value = square.near(*(x[side] for side in sides), *(low[side] for side in sides))
                above = value >= low[start + row]
                kept[start // EDGE].append(_keys(row[above], value[above], other + column[above]))
                if other > start:
                    above = value >= low[other + column]
                    kept[other // EDGE].append(_keys(column[above], value[above], start + row[above]))

        with host_threads(torch.get_num_threads()) as pool:
            for start, _ in zip(starts, pool.map(keep, starts), strict=True):
                # What mirrors into these rows came from earlier ones: they are whole.
                yield self._ranked(np.concatenate(kept[start // EDGE]), start)
                kept[start // EDGE].clear()

    def _ranked(self, cells: Integers, start: int) -> Ranks:
        row, column = _places(cells, start)
        real = column < len(self.x)
        cells, row, column = cells[real], row[real], column[real]
        ordered = np.sort(cells[~self.relations.are_junk(row, column)])
        row, column = _places(ordered, start)
        positive = np.flatnonzero(self.relations.are_positive(row, column))
        if self.first:
            positive = positive[np.diff(row[positive], prepend=-1) > 0]
        query, count = np.unique(row[positive], return_counts=True)
        return Ranks(query, count, positive - np.searchsorted(row, row[positive]) + 1)


class _Square:
    """The similarities of two times EDGE pictures, in memory that is used again."""

    def __init__(self, multiply: Product) -> None:
        self.multiply = multiply
        self.values = np.empty(EDGE * EDGE, np.float32)
        self.rows, self.columns = np.empty(EDGE * EDGE, np.bool_), np.empty(EDGE * EDGE, np.bool_)

    def near(
        self, a: NDArray[np.float32], b: NDArray[np.float32], low_a: NDArray[np.float32], low_b: NDArray[np.float32]
    ) -> tuple[Integers, Integers, NDArray[np.float32]]:
        """Row, column and value of the cells that are not below what their row, or their column, asks for."""
        size, shape = len(a) * len(b), (len(a), len(b))
        values, rows, columns = self.values[:size], self.rows[:size], self.columns[:size]
        self.multiply(a, b, values.reshape(shape))
        np.greater_equal(values.reshape(shape), low_a[:, None], out=rows.reshape(shape))
        np.greater_equal(values.reshape(shape), low_b, out=columns.reshape(shape))
        cells = positions(np.logical_or(rows, columns, out=rows))
        return *np.divmod(cells, len(b)), values[cells]


def _keys(row: Integers, value: NDArray[np.float32], column: Integers) -> Integers:
    return keys(row, value, column, COLUMN_BITS)


def _places(cells: Integers, start: int) -> tuple[Integers, Integers]:
    """Row, counted from the first picture, and column of keys."""
    return start + (cells >> (32 + COLUMN_BITS)), cells & ((1 << COLUMN_BITS) - 1)

"""Ranks of positives in rows of similarities that lie in the host's memory; -inf is junk.

Most rows are ranked together: one comparison finds the cells that are not below their row's last positive, and one sort of whole
numbers that order as (row, falling value, column) puts them in place. Where those cells are many, a row is ranked by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmkd.evaluation.arrays import Integers

SORT_COST, CALL_COST = 170, 25_000
"""To sort one element takes as long as to count 170; one call of a counting loop as long as to count 25,000 (AVX-512 machine)."""

SHORT = 8
"""What is not below the last positive is worth cutting out of a row where it is at most 1 / 8 of it."""
FEW = 32
"""Rows are ranked together where it is at most 1 / 32 of their cells."""

CELLS = 1 << 21
"""Cells that are compared at once, where a row is not longer; a flag is kept of each."""
ROW_BITS, COLUMN_BITS = 5, 26
"""Of the 63 bits of a key; 32 in between are those of a float32."""


def ranks_in_rows(values: NDArray[Any], rows: Integers, columns: Integers) -> Integers:
    """[m] 1-based ranks of the positives at rows and columns [m] of similarities [n, G], ascending within a row; rows ascend."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    if values.dtype != np.float32 or values.shape[1] >> COLUMN_BITS:
        return _one_by_one(values, rows, columns)
    height = max(1, min(1 << ROW_BITS, CELLS // values.shape[1]))
    tops = np.arange(0, len(values), height)
    flags = np.zeros(-(-height * values.shape[1] // 8) * 8, dtype=np.bool_)
    parts = (np.split(each, np.searchsorted(rows, tops[1:])) for each in (rows, columns))
    found = [
        _together(values[top : top + height], row - top, column, flags)
        for top, row, column in zip(tops.tolist(), *parts, strict=True)
        if len(row)
    ]
    return np.concatenate(found)


def _together(values: NDArray[np.float32], rows: Integers, columns: Integers, flags: NDArray[np.bool_]) -> Integers:
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    scores = values[rows, columns]
    last = np.full((len(values), 1), np.inf, dtype=np.float32)
    last[rows[starts], 0] = np.minimum.reduceat(scores, starts)
    near = flags[: -(-values.size // 8) * 8]
    near[values.size :] = False
    np.greater_equal(values, last, out=near[: values.size].reshape(values.shape))
    if FEW * np.count_nonzero(near) > values.size:
        return _one_by_one(values, rows, columns)
    row, column = np.divmod(positions(near), values.shape[1])
    ordered = np.sort(keys(row, values[row, column], column, COLUMN_BITS))
    # Sorted, the positives' keys keep their rows and ascend in rank.
    ahead = np.searchsorted(ordered, np.sort(keys(rows, scores, columns, COLUMN_BITS)))
    return ahead - np.searchsorted(ordered, rows << (32 + COLUMN_BITS)) + 1


def positions(flags: NDArray[np.bool_]) -> Integers:
    """Where the few of a multiple of eight flags are set, found eight at a time."""
    eights = np.flatnonzero(flags.view(np.uint64) != 0)
    eight, which = np.nonzero(flags.reshape(-1, 8)[eights])
    return eights[eight] * 8 + which


def keys(row: Integers, value: NDArray[np.float32], column: Integers, column_bits: int) -> Integers:
    """Whole numbers that order as (row, falling value, column)."""
    bits = (value + np.float32(0)).view(np.int32)  # -0 equals 0
    rising = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return (row << 32 | 0x7FFFFFFF - rising.astype(np.int64)) << column_bits | column


def _one_by_one(values: NDArray[Any], rows: Integers, columns: Integers) -> Integers:
    starts = np.flatnonzero(np.diff(rows, prepend=-1)).tolist()
    parts = zip(starts, [*starts[1:], len(rows)], strict=True)
    return np.concatenate([ranks_in_row(values[rows[start]], columns[start:stop]) for start, stop in parts])


def ranks_in_row(row: NDArray[Any], positives: Integers) -> Integers:
    """1-based ranks, ascending, of `positives` (gallery positions) in one row of similarities where junk is -inf."""
    scores = row[positives]
    if len(positives) > 2:
        row, positives = _down_to_the_last(row, positives, scores)
    if len(positives) * (len(row) + CALL_COST) < SORT_COST * len(row):
        ahead = _ahead_by_counting(row, positives, scores)
    else:
        ahead = _ahead_by_sorting(row, positives, scores)
    return np.sort(ahead) + 1


def _down_to_the_last(row: NDArray[Any], positives: Integers, scores: NDArray[Any]) -> tuple[NDArray[Any], Integers]:
    """The part of a row that is not below the last positive, and where the positives stand in it; all of it unless short."""
    near = row >= scores.min()
    if SHORT * np.count_nonzero(near) > len(row):
        return row, positives
    where = np.flatnonzero(near)
    return row[where], np.searchsorted(where, positives)


def _ahead_by_counting(row: NDArray[Any], positives: Integers, scores: NDArray[Any]) -> Integers:
    pairs = zip(positives.tolist(), scores, strict=True)
    ahead = [np.count_nonzero(row[:p] >= score) + np.count_nonzero(row[p + 1 :] > score) for p, score in pairs]
    return np.array(ahead, dtype=np.int64)


def _ahead_by_sorting(row: NDArray[Any], positives: Integers, scores: NDArray[Any]) -> Integers:
    ordered = np.sort(row)
    right = np.searchsorted(ordered, scores, "right")
    ahead = len(row) - right
    for tied in np.flatnonzero(right - np.searchsorted(ordered, scores, "left") > 1):
        ahead[tied] += np.count_nonzero(row[: positives[tied]] == scores[tied])
    return ahead

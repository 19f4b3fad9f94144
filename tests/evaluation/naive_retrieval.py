"""Retrieval by the textbook, in plain Python: what the engine is checked against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranks(row: Sequence[float], positive: Sequence[bool], junk: Sequence[bool]) -> list[int]:
    """1-based ranks of the positives in the list sorted by similarity, earlier position first among equals, junk taken out."""
    order = sorted((g for g in range(len(row)) if not junk[g]), key=lambda g: (-row[g], g))
    return [place for place, g in enumerate(order, 1) if positive[g]]


def all_ranks(queries, gallery, query_labels, gallery_labels, pairs=()) -> list[list[int]]:
    """Per query the ranks of its positives; `pairs` of (query keys, gallery keys) make junk where equal."""
    found = []
    for q in range(len(queries)):
        row = [float(np.dot(queries[q], gallery[g])) for g in range(len(gallery))]
        junk = [any(left[q] == right[g] for left, right in pairs) for g in range(len(gallery))]
        found.append(ranks(row, [query_labels[q] == label for label in gallery_labels], junk))
    return found


def step_ap(places: list[int], at: int = 10**9) -> float:
    total = sum(sum(other <= place for other in places) / place for place in places if place <= at)
    return total / min(len(places), at)


def trapezoidal_ap(places: list[int], at: int = 10**9) -> float:
    """Oxford: recall moves by 1/n+ at each positive; precision before it and at it, averaged."""
    total = 0.0
    for j, place in enumerate(places):
        r = place - 1
        before = 1.0 if r == 0 else j / r
        after = (j + 1) / (r + 1)
        if place <= at:
            total += (before + after) / 2
    return total / min(len(places), at)


def ap_at_r(places: list[int], depth: int) -> float:
    return sum(sum(other <= k for other in places) / k for k in range(1, depth + 1) if k in places) / depth


def precision_at(places: list[int], k: int) -> float:
    depth = min(k, max(places))
    return sum(place <= k for place in places) / depth

"""How wide the 95 % interval of recall will be, told before anything is trained: from the numbers of classes and of queries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dmkd.data.pictures import QUERY, Labels, Listing

NORMAL = 1.96
"""97.5 % point of the normal distribution."""
RECALL = 0.7
"""Recall@1 for which the width is told: that of a good network on the data sets of the field; at 0.5 it is 9 % wider."""
CORRELATION = 0.2
"""Intra-class correlation for which it is told: the queries of a class share what makes it easy or hard."""


def half_width(queries: Labels, recall: float = RECALL, correlation: float = CORRELATION) -> float:
    """Half of the 95 % interval of recall@1 over classes, for `queries` [C] of each class (Q in all).

    1.96 sqrt(p (1 - p) (Q + rho sum_c n_c (n_c - 1))) / Q: the variance of a mean of Q binary outcomes of probability p of which
    two in one class have correlation rho (Kish's design effect for clusters of unequal size). rho = 0: independent queries.
    """
    counts = queries.astype(np.float64)
    total = counts.sum()
    return float(NORMAL * math.sqrt(recall * (1 - recall) * (total + correlation * (counts * (counts - 1)).sum())) / total)


def queries_of(listing: Listing, classes: list[int]) -> Labels:
    """[C] queries that have a positive, of each of `classes`: a picture is no positive of itself."""
    role = np.zeros(len(listing.labels), dtype=np.int64) if listing.role is None else listing.role
    asking, shown, both = (
        np.bincount(listing.labels[kind], minlength=len(listing.classes)) for kind in (role == QUERY, role != QUERY, role == 0)
    )
    queries: Labels = asking * (shown > 0) + both * (shown > 1)
    return queries[classes]


@dataclass(frozen=True)
class Width:
    """The interval of recall@1 on a part."""

    part: str
    classes: int
    queries: int
    half: float
    """Half of the interval, a share of 1."""
    independent: float
    """What it would be if the queries of a class had nothing in common."""

    def line(self) -> str:
        """For a terminal."""
        return (
            f"recall@1 on {self.part} ({self.classes} classes, {self.queries} queries): expect a 95 % interval of "
            f"+-{100 * self.half:.1f} points at recall {RECALL:g} and intra-class correlation {CORRELATION:g} "
            f"(+-{100 * self.independent:.1f} if queries were independent)"
        )


def width_of(part: str, queries: Labels) -> Width | None:
    """The width for the queries [C] of a part's classes; None where nothing is asked."""
    asked = queries[queries > 0]
    if not asked.size:
        return None
    return Width(part, len(asked), int(asked.sum()), half_width(asked), half_width(asked, correlation=0.0))

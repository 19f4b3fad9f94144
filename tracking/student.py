"""Student's t distribution for whole degrees of freedom: its distribution function, its quantiles, an interval of a mean.

`scipy.special` has the first two, but takes as long to import as all else that a warm leaderboard does; so does NumPy half of it,
and a few seeds need no arrays. The finite sums are those of
Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

NORMAL = NormalDist()
MANY = 1000
"""Degrees of freedom above which SciPy is imported after all: its series does not grow with them."""
STEPS = 100
"""Newton's steps at most; about six are needed, a few more with one or two degrees of freedom."""


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of `values` [n]; NaN ends where n < 2 or a value is not finite."""
    count = len(values)
    if count < 2 or not all(map(math.isfinite, values)):
        return math.nan, math.nan
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = quantile((1 + level) / 2, count - 1) * math.sqrt(variance / count)
    return mean - half, mean + half


def cdf(t: float, freedom: int) -> float:
    """The probability that a value is at most `t`, to about 1e-14."""
    if freedom > MANY:
        from scipy.special import stdtr

        return float(stdtr(freedom, t))
    angle = math.atan2(abs(t), math.sqrt(freedom))
    squared, odd = math.cos(angle) ** 2, freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for place in range(2 + odd, freedom + 1, 2):
        total += term
        term *= squared * (place - 1) / place
    inside = math.sin(angle) * total
    inside = 2 / math.pi * (angle + inside) if odd else inside
    return 0.5 + math.copysign(inside / 2, t)


@lru_cache(maxsize=1024)
def quantile(p: float, freedom: int) -> float:
    """The value that is not exceeded with probability 0 < p < 1; the same to about 1e-12."""
    if p < 0.5:
        return -quantile(1 - p, freedom)
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    # The tails of the normal are lighter: from its quantile Newton's steps go up to the root, and never over it.
    t = NORMAL.inv_cdf(p)
    for _ in range(STEPS):
        density = math.exp(scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (p - cdf(t, freedom)) / density
        t += step
        if abs(step) <= 1e-13 * t:
            break
    return t

"""How sure a mean is, and whether two systems differ: pure functions of NumPy arrays.

Two kinds of chance are kept apart. Another seed gives another network: `tracking.student.t_interval` over seeds. Other classes
give other queries: the queries of one class stand or fall together, so classes, not queries, are drawn again (cluster bootstrap;
Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracking import student

Floats = NDArray[np.float64]
RESAMPLES = 2000
_CHUNK = 4_000_000


def class_bootstrap_interval(
    values: ArrayLike, classes: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean over queries of `values` [n], whole `classes` [n] drawn again with replacement.

    The percentile interval, expanded for a small number of classes (Hesterberg, What Teachers Should Know about the Bootstrap,
    The American Statistician 69, 2015, section 5.3). NaN ends with fewer than two classes or a value that is not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    sums, counts = _by_class(x, classes)
    if counts.size < 2 or not np.isfinite(x).all():
        return math.nan, math.nan
    tail = _expanded((1 - level) / 2, counts.size)
    low, high = np.quantile(_resampled_means(sums, counts, resamples, seed), [tail, 1 - tail])
    return float(low), float(high)


def paired_class_bootstrap(
    a: ArrayLike, b: ArrayLike, classes: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Mean of `a - b` over the same queries [n], and a two-sided p-value of "no difference", by drawing `classes` [n] again.

    The p-value inverts the expanded percentile interval of `class_bootstrap_interval`: it is below 0.05 where the 95 % interval
    of the difference leaves zero out. It is never below about 2 / (resamples + 1). NaN with fewer than two classes.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    sums, counts = _by_class(difference, classes)
    if counts.size < 2 or not np.isfinite(difference).all():
        return math.nan, math.nan
    means = _resampled_means(sums, counts, resamples, seed)
    below, above = int((means <= 0).sum()), int((means >= 0).sum())
    tail = min(0.5, (1 + min(below, above)) / (resamples + 1))
    return float(difference.mean()), 2 * _contracted(tail, counts.size)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment of `p_values` [m] (Scandinavian Journal of Statistics 6, 1979); NaN stays NaN, uncounted."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full_like(p, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def _by_class(values: Floats, classes: ArrayLike) -> tuple[Floats, Floats]:
    """Sum and number of values of each class."""
    _, inverse = np.unique(np.asarray(classes), return_inverse=True)
    return np.bincount(inverse, weights=values).astype(np.float64), np.bincount(inverse).astype(np.float64)


def _resampled_means(sums: Floats, counts: Floats, resamples: int, seed: int) -> Floats:
    """[resamples] means over queries, each from as many classes as there are, drawn with replacement."""
    drawn = _drawn(sums.size, resamples, seed)
    step = max(1, _CHUNK // sums.size)
    parts = (drawn[start : start + step].astype(np.float64) for start in range(0, resamples, step))
    return np.concatenate([(part @ sums) / (part @ counts) for part in parts])


@lru_cache(maxsize=2)
def _drawn(classes: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    """[resamples, classes]: how often each class was drawn; the same draws serve every row of a board."""
    generator = np.random.default_rng(seed)
    draws = (generator.integers(0, classes, size=classes) for _ in range(resamples))
    return np.stack([np.bincount(draw, minlength=classes).astype(np.uint8) for draw in draws])


def _expanded(tail: float, classes: int) -> float:
    """The normal tail as far out as Student's t, whose variance has the divisor n - 1."""
    return student.NORMAL.cdf(math.sqrt(classes / (classes - 1)) * student.quantile(tail, classes - 1))


def _contracted(tail: float, classes: int) -> float:
    """The inverse of `_expanded`."""
    return student.cdf(math.sqrt((classes - 1) / classes) * student.NORMAL.inv_cdf(tail), classes - 1)

"""Two rows on the same test queries: the difference with its interval, class by class, and query by query. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracking import statistics
from tracking.errors import TrackingError
from tracking.outcomes import Queries, per_query

if TYPE_CHECKING:
    import polars as pl

FIRST = "recall_at_1"
LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """A against B in one metric, both means over their seeds; differences are A less B."""

    metric: str
    a: float
    b: float
    low: float
    """The 95 % interval of the difference, over classes."""
    high: float
    p_value: float
    """Of "no difference": paired, the classes drawn again."""
    queries: int
    classes: pl.DataFrame
    """`label`, `queries`, `a`, `b`, `difference`: one row a class, the largest difference first."""
    both: tuple[int, ...]
    """Queries whose first neighbour is right for both (in more than half of a row's seeds)."""
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    neither: tuple[int, ...]

    @property
    def difference(self) -> float:
        """A less B."""
        return self.a - self.b


def paired(a: Sequence[Any], b: Sequence[Any], metric: str, names: tuple[str, str] = ("A", "B")) -> Paired:
    """Compare the outcomes of A's seeds with those of B's, over the queries that all of them answered.

    Raises `TrackingError` where a side has no outcomes, the metric is no mean over queries, or they have no query in common.
    """
    sides = [_answered(outcomes, metric, name) for outcomes, name in zip((a, b), names, strict=True)]
    common = np.intersect1d(sides[0].query, sides[1].query)
    if not common.size:
        raise TrackingError(f"{names[0]} and {names[1]} have no test query in common")
    first, second = (_only(side, common) for side in sides)
    low, high = statistics.class_bootstrap_interval(first.value - second.value, first.label, level=LEVEL)
    right = [_only(_answered(outcomes, FIRST, name), common).value > 0.5 for outcomes, name in zip((a, b), names, strict=True)]
    shares = {(True, True): (), (True, False): (), (False, True): (), (False, False): ()}
    shares |= {pair: tuple(common[(right[0] == pair[0]) & (right[1] == pair[1])].tolist()) for pair in shares}
    return Paired(
        metric,
        float(first.value.mean()),
        float(second.value.mean()),
        low,
        high,
        statistics.paired_class_bootstrap(first.value, second.value, first.label)[1],
        int(common.size),
        _by_class(first, second),
        shares[True, True],
        shares[True, False],
        shares[False, True],
        shares[False, False],
    )


def _answered(outcomes: Sequence[Any], metric: str, name: str) -> Queries:
    if not outcomes:
        raise TrackingError(
            f"{name}: none of its runs stored evaluation/queries.parquet; only final runs, evaluated on test classes, have one"
        )
    found = per_query(outcomes, metric)
    if found is None:
        raise TrackingError(f"{metric}: is no mean over queries; wanted recall_at_K, map or mean_average_precision_at_r")
    return found


def _only(side: Queries, common: Any) -> Queries:
    place = np.searchsorted(side.query, common)
    return Queries(common, side.label[place], side.value[place])


def _by_class(a: Queries, b: Queries) -> pl.DataFrame:
    import polars as pl

    frame = pl.DataFrame({"label": a.label, "a": a.value, "b": b.value})
    means = frame.group_by("label").agg(pl.len().cast(pl.Int64).alias("queries"), pl.col("a", "b").mean())
    means = means.with_columns((pl.col("a") - pl.col("b")).alias("difference"))
    return means.sort(pl.col("difference").abs(), "label", descending=[True, False])


def seeds_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Welch's 95 % interval of the difference of two means over seeds [n], [m]; NaN ends with fewer than two of either."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(x.size, y.size) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan, math.nan
    from scipy.special import stdtrit

    parts = np.array([x.var(ddof=1) / x.size, y.var(ddof=1) / y.size])
    middle = float(x.mean() - y.mean())
    if not parts.sum():
        return middle, middle
    freedom = parts.sum() ** 2 / (parts**2 / np.array([x.size - 1, y.size - 1])).sum()
    half = float(stdtrit(freedom, (1 + LEVEL) / 2) * math.sqrt(parts.sum()))
    return middle - half, middle + half

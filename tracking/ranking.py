"""The order of a board's rows, their ranks, and the share of the teacher gap that each closes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from tracking.outcomes import Queries

ALPHA = 0.05
LOWER_IS_BETTER = ("loss", "seconds", "gflops", "parameters", "memory_mb", "spectral_decay")
UNRANKED_REFERENCES = ("untrained", "teacher", "paper")


def lower_is_better(metric: str) -> bool:
    """The direction of a metric, from its name; recall, precision, NMI and their like are better when higher."""
    return metric.rsplit("/", 1)[-1].endswith(LOWER_IS_BETTER)


def is_ranked() -> pl.Expr:
    """Whether a row has a place: a finite validation score, and not a reference that nobody chooses."""
    import polars as pl

    known = pl.col("validation").is_finite().fill_null(False)
    return known & ~pl.col("reference").is_in(UNRANKED_REFERENCES).fill_null(False)


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """The ranked rows, best first."""
    frame = frame.filter(is_ranked())
    descending = not (frame.height and lower_is_better(frame["select_by"][0]))
    return frame.sort("validation", "id", descending=[descending, False])


def ranked(frame: pl.DataFrame, queries: Mapping[int, Queries]) -> pl.DataFrame:
    """The rows of one protocol in order: ranked, then references, then those without a score as they were begun.

    `queries`: by the column `piece`, the test queries of the rows that have them. Adds `rank`, `p_leader`, `gap_closed`.
    """
    import polars as pl

    frame = frame.with_columns(_gap_closed(frame))
    rest = frame.filter(~is_ranked()).sort(pl.col("reference").is_null(), "status", maintain_order=True)
    rest = rest.with_columns(rank=pl.lit(None, pl.Int64), p_leader=pl.lit(None, pl.Float64))
    return pl.concat([_with_ranks(in_order(frame), queries), rest])


def _gap_closed(frame: pl.DataFrame) -> pl.Series:
    """The share of the gap between the undistilled (else the untrained) and the teacher's row that each row closes."""
    import polars as pl

    tests = frame["test"].to_list()
    told = reversed(list(zip(frame["reference"].to_list(), tests, strict=True)))
    scores = {reference: test for reference, test in told if reference and _is_known(test)}
    low, high = scores.get("undistilled", scores.get("untrained")), scores.get("teacher")
    gap = high - low if low is not None and high is not None else 0.0
    sign = -1 if frame.height and lower_is_better(frame["report"][0]) else 1
    defined = low is not None and sign * gap > 0
    shares = [(test - low) / gap if defined and _is_known(test) else None for test in tests]
    return pl.Series("gap_closed", shares, pl.Float64)


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _with_ranks(order: pl.DataFrame, queries: Mapping[int, Queries]) -> pl.DataFrame:
    """Rank 1 is the leader and those that no test tells from it; then places by validation, equal scores sharing one."""
    import polars as pl

    pieces, validation = order["piece"].to_list(), order["validation"].to_list()
    p_values = _p_values([queries.get(piece) for piece in pieces])
    # Nothing tells a row from the leader: no test at the 5 % level, or, untested, not even the validation score.
    tied = [score == validation[0] if p is None else p > ALPHA for score, p in zip(validation, p_values, strict=True)]
    places = sorted(range(order.height), key=lambda place: not tied[place])
    first = sum(tied)
    seen: dict[float, int] = {}
    for rank, place in enumerate(places):
        seen.setdefault(validation[place], rank)
    ranks = [1 if rank < first else 1 + max(first, seen[validation[place]]) for rank, place in enumerate(places)]
    return order[places].with_columns(
        pl.Series("rank", ranks, pl.Int64), pl.Series("p_leader", [p_values[place] for place in places], pl.Float64)
    )


def _p_values(queries: list[Queries | None]) -> list[float | None]:
    """Of "no difference from the leader", the first, adjusted for their number; None for the leader, and where untested."""
    if not any(one is not None for one in queries[1:]):
        return [None] * len(queries)
    from tracking import statistics
    from tracking.outcomes import tested_against

    adjusted = statistics.holm([tested_against(queries[0], other) for other in queries[1:]]).tolist()
    return [None, *(None if math.isnan(p) else p for p in adjusted)]

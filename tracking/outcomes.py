"""From what happened to every query to one value a query, and to tests between two rows. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracking import statistics


class Queries(NamedTuple):
    """Each query once, sorted by its id: `query` [n], its class `label` [n], and its `value` [n], the mean over seeds."""

    query: NDArray[Any]
    label: NDArray[Any]
    value: NDArray[np.float64]


def query_values(outcome: Any, metric: str) -> NDArray[np.float64] | None:
    """The share of each query in a metric (its mean over queries is the metric), or None where the metric has no such share.

    `outcome` holds the columns `first_hit` (1-based rank of the first positive), `ap` and `ap_at_r`, as a frame, a mapping
    or attributes.
    """
    name = metric.rsplit("/", 1)[-1]
    if match := re.fullmatch(r"recall_at_(\d+)", name):
        hit = _column(outcome, "first_hit").astype(np.float64)
        return ((hit >= 1) & (hit <= int(match[1]))).astype(np.float64)
    column = {"map": "ap", "mean_average_precision_at_r": "ap_at_r"}.get(name)
    return None if column is None else _column(outcome, column).astype(np.float64)


def gives(outcome: Any, metric: str, score: float) -> bool:
    """Whether the mean over these queries is the score that was logged."""
    values = query_values(outcome, metric)
    return values is not None and values.size > 0 and abs(float(values.mean()) - score) < 1e-4


def per_query(outcomes: Iterable[Any], metric: str) -> Queries | None:
    """One row's queries from the outcomes of its seeds; only queries that every seed answered."""
    tables = []
    for outcome in outcomes:
        values = query_values(outcome, metric)
        if values is None:
            return None
        table = Queries(_column(outcome, "query"), _column(outcome, "label"), values)
        if (table.query[1:] <= table.query[:-1]).any():  # as stored they are sorted, each once
            query, first = np.unique(table.query, return_index=True)
            table = Queries(query, table.label[first], values[first])
        tables.append(table)
    if not tables:
        return None
    common = tables[0].query
    for table in tables[1:]:
        common = _common(common, table.query)
    kept = [_only(table, common) for table in tables]
    return Queries(common, kept[0].label, np.mean([table.value for table in kept], axis=0))


def class_interval(queries: Queries | None, level: float) -> tuple[float, float]:
    """The interval over classes of a row's mean; NaN ends where there is nothing to draw from."""
    if queries is None:
        return math.nan, math.nan
    return statistics.class_bootstrap_interval(queries.value, queries.label, level=level)


def tested_against(leader: Queries | None, other: Queries | None) -> float:
    """The p-value of "no difference" over the queries that both answered; NaN where it cannot be tested."""
    if leader is None or other is None:
        return math.nan
    common = _common(leader.query, other.query)
    if not common.size:
        return math.nan
    a, b = _only(leader, common), _only(other, common)
    return statistics.paired_class_bootstrap(a.value, b.value, a.label)[1]


def _common(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """The queries that both answered; most often all."""
    return one if np.array_equal(one, other) else np.intersect1d(one, other)


def _only(table: Queries, query: NDArray[Any]) -> Queries:
    if table.query is query or np.array_equal(table.query, query):
        return table
    place = np.searchsorted(table.query, query)
    return Queries(query, table.label[place], table.value[place])


def _column(outcome: Any, name: str) -> NDArray[Any]:
    return np.asarray(outcome[name] if hasattr(outcome, "__getitem__") else getattr(outcome, name))

"""Warm start: the best points of an earlier sweep in MLflow, on the same or another data set, are tried first."""

from __future__ import annotations

import ast
import math
from typing import Any

from dmkd.errors import ConfigError, SweepError
from dmkd.space import Choice
from sweeps.space import Searched, Values, plain

POINTS = 5
"""Points that are taken over."""


def warm_points(searched: Searched, experiment: str, uri: str, objective: str, count: int = POINTS) -> tuple[list[Values], str]:
    """The `count` best distinct points of the searches in an MLflow experiment, as far as this space has their keys, and a note.

    A key that the earlier runs lack, or whose value lies outside this space, takes the base's own value. Raises `TrackingError`
    for an experiment that does not exist, `SweepError` where it holds no finished trial with this metric.
    """
    import polars as pl

    from tracking.reading import load_runs

    runs = load_runs(uri, experiment)
    column = f"metrics.{objective}"
    if column in runs.columns and "tags.dmkd.stage" in runs.columns:
        fits = (pl.col("tags.dmkd.stage") == "search") & (pl.col("status") == "FINISHED") & pl.col(column).is_finite()
        runs = runs.filter(fits).sort(column, descending=True)
    else:
        runs = runs.clear()
    if not len(runs):
        raise SweepError(
            f"--warm-start {experiment}: no finished trial with {objective}; choose another experiment, or leave it out"
        )
    points: list[Values] = []
    left: set[str] = set()
    for run in _means(runs, column):
        point, missing = _point(searched, run)
        left |= missing
        if point not in points:
            points.append(point)
        if len(points) == count:
            break
    note = f"warm start: {len(points)} points from {experiment}"
    return points, note + (f" (not taken over, or not in this space: {', '.join(sorted(left))})" if left else "")


def _means(runs: Any, column: str) -> list[dict[str, Any]]:
    """One row a configuration: folds and seeds of a trial share their row's name."""
    import polars as pl

    name = "tags.dmkd.row" if "tags.dmkd.row" in runs.columns else "run_id"
    means = runs.group_by(name, maintain_order=True).agg(pl.exclude(column).first(), pl.col(column).mean())
    return list(means.sort(column, descending=True, maintain_order=True).to_dicts())


def _point(searched: Searched, run: dict[str, Any]) -> tuple[Values, set[str]]:
    """What a run says about the searched keys, completed, and the keys that it could not say."""
    values: Values = {}
    for key, entry in searched.space.items():
        field = plain(key)
        told = run.get("tags.dmkd.method") if field == "method" else run.get(f"params.{field}")
        value = _read(told, entry.options if isinstance(entry, Choice) else None)
        if (
            told is not None
            and value is not None
            and searched.active(key, searched.named(values))
            and _fits(searched, key, value)
        ):
            values[field] = value
    point = searched.completed(values)
    return point, {field for field in point if field not in values}


def _read(text: str | None, options: tuple[Any, ...] | None) -> Any:
    """A logged parameter as the value that it was; of a choice, the option that it names."""
    if text is None:
        return None
    for option in options or ():
        if str(getattr(option, "label", option)) == text:
            return option
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _fits(searched: Searched, key: str, value: Any) -> bool:
    entry = searched.space[key]
    if isinstance(entry, Choice):
        return value in entry.options
    try:
        return bool(entry.low <= value <= entry.high)
    except (TypeError, ConfigError):
        return False

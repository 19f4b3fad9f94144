"""`dmkd compare`: two rows of the leaderboard, found by their names, held against each other on the same test queries."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, NamedTuple

from tracking.errors import TrackingError
from tracking.finding import Found, find_row
from tracking.paired import Paired, paired, seeds_interval
from tracking.places import absolute_uri, default_uri
from tracking.reading import load_outcomes

CLASSES, QUERIES = 12, 20
"""How many are printed."""


class Compared(NamedTuple):
    """Two rows and what came of it."""

    a: Found
    b: Found
    paired: Paired
    over_seeds: tuple[float, float]
    """The interval of the difference over seeds."""


def compare(a: str, b: str, uri: str | None = None, *, experiment: str | None = None, metric: str | None = None) -> Compared:
    """Row `a` against row `b` (names as in `find_row`); `metric` defaults to what the rows report.

    Raises `TrackingError` where a row is unknown, they were measured by different protocols, or queries are missing.
    """
    uri = absolute_uri(uri) if uri else default_uri()
    first, second = find_row(a, uri, experiment), find_row(b, uri, experiment)
    if _protocol(first) != _protocol(second):
        raise TrackingError(
            f"{a} and {b} were measured by different protocols ({_protocol(first)}, {_protocol(second)}: split, junk or metric "
            "definition): their numbers must not be compared"
        )
    metric = metric or str(first.row["report"])
    held = paired(_outcomes(uri, first), _outcomes(uri, second), metric, (a, b))
    return Compared(first, second, held, seeds_interval(_scores(first, metric), _scores(second, metric)))


def _protocol(found: Found) -> str:
    """The protocol by which a row was tested: that of its final runs."""
    runs = found.runs.filter(found.runs["run_id"].is_in(found.row["final_runs"]))
    named = runs["tags.dmkd.protocol"].drop_nulls().to_list() if "tags.dmkd.protocol" in runs.columns else []
    return str(named[0]) if named else str(found.row["protocol"])


def _outcomes(uri: str, found: Found) -> list[Any]:
    stored = load_outcomes(uri, found.runs.filter(found.runs["run_id"].is_in(found.row["final_runs"])))
    return [stored[run_id] for run_id in found.row["final_runs"] if run_id in stored]


def _scores(found: Found, metric: str) -> list[float]:
    column = f"metrics.{metric}"
    runs = found.runs.filter(found.runs["run_id"].is_in(found.row["final_runs"]))
    return [float(value) for value in runs[column].drop_nulls()] if column in runs.columns else []


def as_json(found: Compared) -> dict[str, Any]:
    """Everything, for programs; numbers that are not finite are null."""
    told = asdict(found.paired) | {"difference": found.paired.difference, "classes": found.paired.classes.to_dicts()}
    told |= {"over_seeds": list(found.over_seeds), "interval": [told.pop("low"), told.pop("high")]}
    for side in ("a", "b"):
        row = getattr(found, side).row
        told[f"row_{side}"] = {key: row[key] for key in ("id", "label", "experiment", "seeds", "final_runs")}
    return {key: _plain(value) for key, value in told.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(found: Compared) -> str:
    """The same for a terminal; scores in percent."""
    held = found.paired
    head = [
        f"{name} {one.row['id']}  {one.row['label']}: {100 * value:.1f} ({one.row['seeds']} seeds)"
        for name, one, value in (("A", found.a, held.a), ("B", found.b, held.b))
    ]
    return "\n".join([*head, "", *_difference(found), "", *_classes(held), "", *_queries(held)])


def _difference(found: Compared) -> list[str]:
    held = found.paired
    told = (
        "no difference that a test would find"
        if not held.p_value < 0.05
        else "A is better"
        if held.difference > 0
        else "B is better"
    )
    lines = [
        f"{held.metric}, A - B: {100 * held.difference:+.1f} {_interval(held.low, held.high)} (95 %, over "
        f"{held.classes.height} classes, {held.queries} queries); p = {held.p_value:.2g}: {told}"
    ]
    if math.isfinite(found.over_seeds[0]):
        lines.append(f"over seeds: {_interval(*found.over_seeds)} (95 %, Welch)")
    return lines


def _interval(low: float, high: float) -> str:
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]" if math.isfinite(low) else "[too few to say]"


def _classes(held: Paired) -> list[str]:
    lines = [f"{'class':>8}  queries      A      B  difference"]
    for row in held.classes.head(CLASSES).iter_rows(named=True):
        scores = "  ".join(f"{100 * row[side]:5.1f}" for side in ("a", "b"))
        lines.append(f"{row['label']!s:>8}  {row['queries']:7d}  {scores}  {100 * row['difference']:+10.1f}")
    rest = held.classes.height - CLASSES
    return lines + ([f"... {rest} classes more; --json has them all"] if rest > 0 else [])


def _queries(held: Paired) -> list[str]:
    counts = f"first neighbour right: both {len(held.both)}, A alone {len(held.only_a)}, B alone {len(held.only_b)}, "
    lines = [counts + f"neither {len(held.neither)}"]
    for name, queries in (("A", held.only_a), ("B", held.only_b)):
        if queries:
            more = f" ... {len(queries) - QUERIES} more" if len(queries) > QUERIES else ""
            lines.append(f"{name} alone: " + " ".join(map(str, queries[:QUERIES])) + more)
    return lines

"""A measured row beside its printed one: the number, the difference, how each was chosen, and whether they may be compared."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl

PERCENT = ("recall_at_", "map", "nmi", "mp_at_", "mean_average_precision", "r_precision", "clustering_f1")
"""Metrics that the papers print in percent, and that runs log as shares."""

NOTHING: dict[str, Any] = {
    "published": None,
    "difference": None,
    "published_key": None,
    "published_rule": None,
    "rule": None,
    "not_comparable": None,
}
"""The columns of a row that no paper printed."""


class Cell(NamedTuple):
    """A printed number, on the scale of what runs log."""

    value: float
    uncertain: bool


@cache
def _cells() -> dict[tuple[str, str], Cell]:
    from tracking.published import load_published

    rows = load_published().select("key", "score", "value", "uncertain").drop_nulls("score").iter_rows()
    found: dict[tuple[str, str], Cell] = {}
    for key, score, value, uncertain in rows:
        found.setdefault((key, score), Cell(value / scale(score), uncertain))
    return found


def scale(score: str) -> float:
    """What a printed value of this score is divided by to stand on the scale of what is logged."""
    return 100.0 if score.rsplit("/", 1)[-1].startswith(PERCENT) else 1.0


def printed(keys: str, score: str) -> tuple[str, Cell] | None:
    """The first of the keys (separated by spaces) that has this score printed, and its cell."""
    found = ((key, _cells().get((key, score))) for key in keys.split())
    return next(((key, cell) for key, cell in found if cell is not None), None)


def beside(tags: dict[str, Any], score: str, measured: float | None) -> dict[str, Any]:
    """The columns of a row whose runs carry these `dmkd.` tags, for one score; nulls where no paper printed it.

    `published` and `difference` (measured less printed) are on the scale of the score; `not_comparable` says in words what
    differs from the paper, and is empty where nothing does.
    """
    found = printed(str(tags.get("published") or ""), score)
    if found is None:
        return dict(NOTHING)
    key, cell = found
    reasons = [str(tags.get("not_comparable") or ""), "the printed cell is uncertain" if cell.uncertain else ""]
    return {
        "published": cell.value,
        "difference": None if measured is None else measured - cell.value,
        "published_key": key,
        "published_rule": tags.get("published_rule") or None,
        "rule": tags.get("rule") or None,
        "not_comparable": "; ".join(filter(None, reasons)),
    }


def comparison(runs: pl.DataFrame) -> list[dict[str, Any]]:
    """Every printed number of the finished `runs` (of `load_runs`) beside what was measured, in the order of the papers.

    Entries: `row` (the label), `key`, `score`, `measured` (mean over seeds; None: not measured), `seeds`, `published`,
    `difference`, `uncertain`, `not_comparable`; scores on the scale on which they were logged.
    """
    if "tags.dmkd.published" not in runs.columns:
        return []
    known = [run for run in runs.to_dicts() if run["tags.dmkd.published"] and run["status"] == "FINISHED"]
    by_key: dict[str, list[dict[str, Any]]] = {}
    for run in known:
        for key in run["tags.dmkd.published"].split():
            by_key.setdefault(key, []).append(run)
    return [_held(key, score, cell, by_key[key]) for (key, score), cell in _cells().items() if key in by_key]


def _held(key: str, score: str, cell: Cell, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One printed number; a seed counts once, its earliest run."""
    first = {run.get("tags.dmkd.seed"): run for run in reversed(runs)}
    values = [run[f"metrics.{score}"] for run in first.values() if run.get(f"metrics.{score}") is not None]
    measured = math.fsum(values) / len(values) if values else None
    return {
        "row": runs[0].get("tags.dmkd.label"),
        "key": key,
        "score": score,
        "measured": measured,
        "seeds": len(values),
        "published": cell.value,
        "difference": None if measured is None else measured - cell.value,
        "uncertain": cell.uncertain,
        "not_comparable": runs[0].get("tags.dmkd.not_comparable") or "",
    }


def render_comparison(rows: list[dict[str, Any]]) -> str:
    """The same for a terminal, in the papers' own units; differences of rows that are not comparable stand in brackets."""
    wide = max((len(row["key"]) for row in rows), default=0)
    long = max((len(row["score"]) for row in rows), default=0)
    head = f"{'printed row':{wide}}  {'score':{long}}  {'printed':>8}  {'measured':>8}  {'difference':>10}  seeds"
    return "\n".join([head, *(f"{row['key']:{wide}}  {row['score']:{long}}  {_numbers(row)}" for row in rows)])


def _numbers(row: dict[str, Any]) -> str:
    unit = scale(row["score"])
    printed = f"{_plain(row['published'], unit)}{'?' if row['uncertain'] else ''}"
    if row["measured"] is None:
        return f"{printed:>8}  {'-':>8}"
    difference = f"{'-' if row['difference'] < 0 else '+'}{_plain(abs(row['difference']), unit)}"
    shown = f"({difference})" if row["not_comparable"] else difference
    return f"{printed:>8}  {_plain(row['measured'], unit):>8}  {shown:>10}  {row['seeds']:5d}"


def _plain(value: float, unit: float) -> str:
    return f"{value * unit:.1f}" if unit != 1 else f"{value:.4g}"

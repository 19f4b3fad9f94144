"""The leaderboard as people ask for it: read, joined with the outcomes of the queries, remembered, and rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracking import board
from tracking.errors import TrackingError
from tracking.leaderboard import boards, leaderboard
from tracking.places import absolute_uri, default_uri
from tracking.reading import load_outcomes, load_runs
from tracking.render import render

if TYPE_CHECKING:
    import polars as pl


def show(
    uri: str | None = None,
    experiment: str | None = None,
    *,
    select_by: str | None = None,
    report: str | None = None,
    group_by: str = "configuration",
    form: str = "table",
) -> str:
    """The ranking of one experiment (default: that of the newest run) as text; its rows become those that a bare number names.

    `select_by` defaults to what the sweep was chosen by, else Recall@1 on validation; `report` to the same metric
    on test. Raises `TrackingError` where there is no run, or none with the metric.
    """
    uri = absolute_uri(uri) if uri else default_uri()
    runs = load_runs(uri, experiment)
    if not runs.height:
        raise TrackingError(
            f"{uri}: no runs{f' in experiment {experiment!r}' if experiment else ''}; run a sweep, or give --tracking-uri"
        )
    experiment = experiment or str(runs.sort("start_time")["experiment"][-1])
    runs = runs.filter(runs["experiment"] == experiment)
    select_by = select_by or _judged(runs)
    report = report or select_by.replace("val", "test", 1)
    if not {f"metrics.{select_by}", f"metrics.{report}"} & set(runs.columns):
        known = sorted(name.removeprefix("metrics.") for name in runs.columns if name.startswith("metrics.val"))
        raise TrackingError(
            f"no run of {experiment!r} has {select_by!r}; there are {', '.join(known) or 'no validation scores yet'}"
        )
    frame = leaderboard(runs, select_by, report, group_by, load_outcomes(uri, runs))
    board.remember(frame, uri, experiment=experiment, select_by=select_by, report=report, group_by=group_by)
    text = render(frame, form)
    return text if form in ("csv", "json") else f"{experiment}\n{text}"


def _judged(runs: pl.DataFrame) -> str:
    """What the newest sweep was chosen by (its parent's tag), else Recall@1 of the first role that the runs have."""
    if "tags.dmkd.objective" in runs.columns:
        stated = runs.sort("start_time")["tags.dmkd.objective"].drop_nulls()
        if stated.len():
            return str(stated[-1])
    known = boards(runs)
    return known[0][0] if known else "val/recall_at_1"

"""The leaderboard as people ask for it: read, joined with the outcomes of the queries, remembered, and rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking import board
from tracking.errors import TrackingError
from tracking.leaderboard import boards, leaderboard, other_roles, role
from tracking.places import absolute_uri, default_uri
from tracking.reading import load_outcomes, load_runs, newest_experiment
from tracking.render import TEXTS, parquet, render

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Board:
    """A leaderboard with what it was made of."""

    uri: str
    experiment: str
    runs: pl.DataFrame
    outcomes: dict[str, pl.DataFrame]
    frame: pl.DataFrame
    question: dict[str, Any]
    """`select_by`, `report`, `group_by`, `where`: with them `leaderboard` makes the same rows again."""


def find_board(
    uri: str | None = None,
    experiment: str | None = None,
    *,
    select_by: str | None = None,
    report: str | None = None,
    group_by: str = "configuration",
    where: Sequence[str] = (),
    fresh: bool = False,
) -> Board:
    """The ranking of one experiment (default: that of the newest run).

    `select_by` defaults to what the sweep was chosen by, else Recall@1 on validation; `report` to the same metric
    on test. Raises `TrackingError` where there is no run, or none with the metric.
    """
    uri = absolute_uri(uri) if uri else default_uri()
    asked, experiment = experiment, experiment or newest_experiment(uri)
    runs = load_runs(uri, experiment, fresh=fresh) if experiment else None
    if experiment is None or runs is None or not runs.height:
        raise TrackingError(f"{uri}: no runs{f' in experiment {asked!r}' if asked else ''}; run a sweep, or give --tracking-uri")
    select_by = select_by or judged_by(runs)
    report = report or select_by.replace("val", "test", 1)
    if not {f"metrics.{select_by}", f"metrics.{report}"} & set(runs.columns):
        known = sorted(name.removeprefix("metrics.") for name in runs.columns if name.startswith("metrics.val"))
        raise TrackingError(
            f"no run of {experiment!r} has {select_by!r}; there are {', '.join(known) or 'no validation scores yet'}"
        )
    question: dict[str, Any] = {"select_by": select_by, "report": report, "group_by": group_by, "where": list(where)}
    outcomes = load_outcomes(uri, runs)
    return Board(uri, experiment, runs, outcomes, leaderboard(runs, outcomes=outcomes, **question), question)


def show(
    uri: str | None = None,
    experiment: str | None = None,
    *,
    form: str = "table",
    top: int = 0,
    out: str | None = None,
    **asked: Any,
) -> str:
    """The ranking as text, as `find_board` finds it; its rows become those that a bare number names.

    `top` leaves the first rows of each table, and its references. `out` is a file to write instead; then the text says where.
    Raises `TrackingError` as `find_board` does, and for Parquet without a file.
    """
    if form == "parquet" and not out:
        raise TrackingError("format parquet is no text: say where to write it, --out board.parquet")
    made = find_board(uri, experiment, **asked)
    frame = _first(made.frame, top) if top else made.frame
    board.remember(made.frame, made.uri, experiment=made.experiment, shown=frame["id"].to_list(), **made.question)
    if form == "parquet":
        content = parquet(frame)
    else:
        text = render(frame, form)
        text = text if form in TEXTS else "\n".join([made.experiment, text, *_other_role(made)])
        content = f"{text}\n".encode()
    if out is None:
        return text
    Path(out).write_bytes(content)
    return f"{out}: {frame.height} rows of {made.experiment}"


def _other_role(made: Board) -> list[str]:
    """How to ask for the table of the other role, where the runs have its scores; a board has rows of one role alone."""
    others = [(role(other), other) for other, _ in other_roles(made.runs, made.question["select_by"])]
    return [f"{name} scores of these runs have a table of their own: --select {other}" for name, other in others]


def _first(frame: pl.DataFrame, most: int) -> pl.DataFrame:
    """The first rows of each protocol that are ranked, and the references."""
    import polars as pl

    place = pl.int_range(pl.len()).over("protocol")
    return frame.filter((place < most) | pl.col("reference").is_not_null())


def judged_by(runs: pl.DataFrame) -> str:
    """What the newest sweep was chosen by (its parent's tag), else Recall@1 of the first role that the runs have."""
    if "tags.dmkd.objective" in runs.columns:
        stated = runs.sort("start_time")["tags.dmkd.objective"].drop_nulls()
        if stated.len():
            return str(stated[-1])
    known = boards(runs)
    return known[0][0] if known else "val/recall_at_1"

"""What a report is made of, read once; the figures are functions of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tracking.candidates import number
from tracking.comparison import comparison
from tracking.histories import load_histories

if TYPE_CHECKING:
    import polars as pl

    from tracking.show import Board

Row = dict[str, Any]
FIXED = ("params.seed", "params.data.", "params.evaluation.", "params.teacher.", "params.method.name", "params.loss.name")
"""Params that tell repetitions or roles apart and are not searched."""
MOST_CURVES = 6


@dataclass(frozen=True)
class Retrieved:
    """A query and its first neighbours by two networks; pictures as data URIs."""

    query: str
    name: str
    """Of the query's class."""
    columns: tuple[tuple[str, tuple[tuple[str, str, bool], ...]], ...]
    """(network, ((picture, class, whether it is right), ...)), the student first."""


@dataclass(frozen=True)
class Searched:
    """A searched param: its values and scores over the trials of one method (or of all)."""

    name: str
    method: str
    """Empty: a param of every method."""
    values: tuple[Any, ...]
    scores: tuple[float, ...]
    methods: tuple[str, ...]

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers, at least three of them."""
        return all(isinstance(value, float) for value in self.values) and len(set(self.values)) > 2


@dataclass(frozen=True)
class Material:
    """A board, the histories of its runs, and what the caller found out beside."""

    board: Board
    histories: pl.DataFrame
    importances: Mapping[str, float] = field(default_factory=dict)
    """Of searched params, by name, summing to 1."""
    gallery: Sequence[Retrieved] = ()
    notes: Sequence[str] = ()
    """What could not be shown, and why."""

    @property
    def metric(self) -> str:
        """The score on test."""
        return str(self.board.question["report"])

    @property
    def chosen_by(self) -> str:
        """The score on validation."""
        return str(self.board.question["select_by"])

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the board that has the most of them ranked: rows of other protocols are on tables of their own."""
        import polars as pl

        frame = self.board.frame
        if not frame.height:
            return []
        counts = frame.group_by("protocol").agg(pl.col("rank").count()).sort("rank", "protocol", descending=[True, False])
        return frame.filter(pl.col("protocol") == counts["protocol"][0]).to_dicts()

    @cached_property
    def ranked(self) -> list[Row]:
        """Those that are candidates, best first."""
        return [row for row in self.rows if row["rank"] is not None]

    @cached_property
    def trials(self) -> list[Row]:
        """Search runs that ended as planned with a finite score, in the order in which they ended."""
        column = f"metrics.{self.chosen_by}"
        runs = self.board.runs
        if column not in runs.columns or "tags.dmkd.stage" not in runs.columns:
            return []
        kept = runs.filter((runs["tags.dmkd.stage"] == "search") & (runs["status"] == "FINISHED") & runs[column].is_finite())
        return kept.sort("end_time").to_dicts()

    @cached_property
    def failures(self) -> list[Row]:
        """Runs that failed or were stopped, with their reasons."""
        runs = self.board.runs.filter(self.board.runs["status"].is_in(["FAILED", "KILLED"]))
        return [
            {
                "name": run["name"],
                "run_id": run["run_id"],
                "status": run["status"].lower(),
                "reason": run.get("tags.dmkd.status_reason"),
            }
            for run in runs.to_dicts()
        ]

    @cached_property
    def printed(self) -> list[Row]:
        """Measured numbers that a paper printed too."""
        return [row for row in comparison(self.board.runs) if row["measured"] is not None]

    @cached_property
    def searched(self) -> list[Searched]:
        """The params that the search varied: those of a method within it, all others over every trial."""
        names = {name for trial in self.trials for name in trial if name.startswith("params.") and not name.startswith(FIXED)}
        general = sorted(name for name in names if not name.startswith("params.method."))
        found = [one for name in general if (one := self._varied(name, ""))]
        for method in sorted({_method(trial) for trial in self.trials}):
            own = sorted(names - set(general))
            found += [one for name in own if (one := self._varied(name, method))]
        return found

    def _varied(self, name: str, method: str) -> Searched | None:
        trials = [trial for trial in self.trials if trial.get(name) is not None and method in ("", _method(trial))]
        values = tuple(number(trial[name]) if number(trial[name]) is not None else _short(trial[name]) for trial in trials)
        if len(set(values)) < 2:
            return None
        scores = tuple(float(trial[f"metrics.{self.chosen_by}"]) for trial in trials)
        return Searched(name.removeprefix("params."), method, values, scores, tuple(map(_method, trials)))


def gather(board: Board, **found: Any) -> Material:
    """The material of a board, its histories read; `found`: what else `Material` holds."""
    stages = board.runs["tags.dmkd.stage"] if "tags.dmkd.stage" in board.runs.columns else None
    chosen = board.runs.filter(stages.is_in(["search", "final", "teacher"])) if stages is not None else board.runs
    keys = [str(board.question["select_by"]), *(_losses(board.runs))]
    return Material(board, load_histories(board.uri, chosen["run_id"].to_list(), keys), **found)


def _losses(runs: pl.DataFrame) -> list[str]:
    return sorted(name.removeprefix("metrics.") for name in runs.columns if name.startswith("metrics.train/loss"))


def _method(run: Row) -> str:
    return str(run.get("tags.dmkd.method") or "run")


def _short(text: str) -> str:
    return str(text).rstrip("/").rsplit("/", 1)[-1] or "none"

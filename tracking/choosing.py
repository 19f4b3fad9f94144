"""Which rows of a board are asked for: conditions on any column or param, and the best row of each group. Pure."""

from __future__ import annotations

import difflib
import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tracking.candidates import number
from tracking.columns import COUNTS, LISTS, NUMBERS, TEXTS
from tracking.errors import TrackingError
from tracking.ranking import in_order, is_ranked

if TYPE_CHECKING:
    import polars as pl

KNOWN = frozenset((*COUNTS, *TEXTS, *NUMBERS, *LISTS)) - {"rank", "p_leader", "gap_closed"}
"""Columns of a board before its rows are ranked."""
SHORT = {
    "backbone": "params.student.backbone",
    "resolution": "params.student.resolution",
    "dim": "params.student.dim",
    "seed": "tags.dmkd.seed",
    "loss": "params.loss.name",
}
"""What people call a column of the runs."""
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


class Condition(NamedTuple):
    """`key operator value`, as in `student.resolution<=64` or `method=yu/*`."""

    key: str
    sign: str
    value: str

    def holds(self, found: Any) -> bool:
        """Whether a value fulfils it: numbers as numbers, texts by shell patterns; a missing value fulfils `!=` alone."""
        if found is None:
            return self.sign == "!="
        left, right = number(found), number(self.value)
        if left is not None and right is not None:
            return OPERATORS[self.sign](left, right)
        if self.sign in ("=", "!="):
            return fnmatch.fnmatchcase(str(found), self.value) == (self.sign == "=")
        return OPERATORS[self.sign](str(found), self.value)


def parse(text: str) -> Condition:
    """A condition from what was typed. Raises `TrackingError`."""
    match = re.fullmatch(r"\s*([\w./+-]+?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", text)
    if match is None:
        raise TrackingError(f"condition {text!r}: wanted KEY=VALUE, as in method=yu/*, student.resolution<=64 or seeds>=3")
    return Condition(*match.groups())


def chosen(frame: pl.DataFrame, runs: pl.DataFrame, conditions: Sequence[str]) -> pl.DataFrame:
    """The rows that fulfil every condition, and every reference. Raises `TrackingError` for a key that nothing has."""
    for condition in map(parse, conditions):
        values = values_of(condition.key, frame, runs, "where")
        references = frame["reference"].is_not_null().to_list()
        frame = frame.filter([kept or condition.holds(value) for kept, value in zip(references, values, strict=True)])
    return frame


def values_of(key: str, frame: pl.DataFrame, runs: pl.DataFrame, what: str) -> list[Any]:
    """The value of a key for each row: a column of the board, or of the run that stands for the row. Raises `TrackingError`."""
    column = next((name for name in (SHORT.get(key, key), f"params.{key}", f"tags.{key}") if name in runs.columns), None)
    known = key in KNOWN
    if column is None or (known and key not in SHORT):
        if not known and frame.height:
            raise TrackingError(f"{what} {key!r}: no such column{_near(key, runs)}")
        return frame[key].to_list() if known else []
    values = dict(runs.select("run_id", column).iter_rows())
    return [values[run_id] for run_id in frame["run_id"].to_list()]


def best_of_groups(frame: pl.DataFrame, runs: pl.DataFrame, group_by: str) -> pl.DataFrame:
    """The best ranked row of each value of a key, and every reference. Raises `TrackingError` for a key that nothing has."""
    import polars as pl

    values = values_of(group_by, frame, runs, "group_by")
    frame = frame.with_columns(pl.Series("group", [None if value is None else str(value) for value in values], pl.String))
    best = in_order(frame).unique(["protocol", "group"], keep="first", maintain_order=True)
    others = frame.filter(pl.col("reference").is_not_null() & ~is_ranked())
    return pl.concat([best, others.with_columns(group=pl.lit(None, pl.String))])


def _near(key: str, runs: pl.DataFrame) -> str:
    params = [name.removeprefix("params.") for name in runs.columns if name.startswith("params.")]
    known = sorted({*KNOWN, *params})
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(map(repr, near))}?" if near else f"; there are {', '.join(known)}"

"""Which rows of a board are asked for: conditions on any column or param, and the best row of each group. Pure."""

from __future__ import annotations

import difflib
import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tracking.candidates import number
from tracking.errors import TrackingError

if TYPE_CHECKING:
    import polars as pl

Row = dict[str, Any]
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


def chosen(rows: list[Row], runs: pl.DataFrame, conditions: Sequence[str]) -> list[Row]:
    """The rows that fulfil every condition, and every reference. Raises `TrackingError` for a key that nothing has."""
    for condition in map(parse, conditions):
        values = values_of(condition.key, rows, runs, "where")
        rows = [row for row, value in zip(rows, values, strict=True) if row["reference"] or condition.holds(value)]
    return rows


def values_of(key: str, rows: list[Row], runs: pl.DataFrame, what: str) -> list[Any]:
    """The value of a key for each row: a column of the board, or of the run that stands for the row. Raises `TrackingError`."""
    column = next((name for name in (SHORT.get(key, key), f"params.{key}", f"tags.{key}") if name in runs.columns), None)
    if column is None or (key in (rows[0] if rows else {}) and key not in SHORT):
        if rows and key not in rows[0]:
            raise TrackingError(f"{what} {key!r}: no such column{_near(key, rows[0], runs)}")
        return [row.get(key) for row in rows]
    values = dict(runs.select("run_id", column).iter_rows())
    return [values[row["run_id"]] for row in rows]


def best_of_groups(rows: list[Row], runs: pl.DataFrame, group_by: str, is_ranked: Callable[[Row], bool], place: Any) -> list[Row]:
    """The best ranked row of each value of a key, and every reference. Raises `TrackingError` for a key that nothing has."""
    values = values_of(group_by, rows, runs, "group_by")
    named = [row | {"group": None if value is None else str(value)} for row, value in zip(rows, values, strict=True)]
    kept: dict[tuple[str, Any], Row] = {}
    for row in sorted(filter(is_ranked, named), key=place):
        kept.setdefault((row["protocol"], row["group"]), row)
    return [*kept.values(), *(row for row in rows if row["reference"] and not is_ranked(row))]


def _near(key: str, row: Row, runs: pl.DataFrame) -> str:
    params = [name.removeprefix("params.") for name in runs.columns if name.startswith("params.")]
    known = sorted({name for name in row if not name.startswith("_")} | set(params))
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(map(repr, near))}?" if near else f"; there are {', '.join(known)}"

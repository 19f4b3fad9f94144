"""The one form that runs have here, whatever they were read from: a frame with the columns of `mlflow.search_runs`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

INFOS = ("run_id", "experiment", "experiment_id", "name", "status", "start_time", "end_time", "artifact_uri")
TIMES = ("start_time", "end_time")
STATE = "_state"
"""A column of the cache: what tells whether a run has changed since."""
LARGEST = 1.7976931348623157e308
"""What MLflow's database holds in the place of an infinity."""


def info_kinds() -> dict[str, Any]:
    """The type of each of `INFOS`."""
    import polars as pl

    return {name: pl.Int64 if name in TIMES else pl.String for name in INFOS}


def part_kinds() -> dict[str, Any]:
    """The type of what a run has logged, by part."""
    import polars as pl

    return {"params": pl.String, "tags": pl.String, "metrics": pl.Float64}


def finite(value: float, is_nan: object = False) -> float:
    """The value that was logged: MLflow's tables have 0.0 with a flag for NaN, and the largest float for an infinity."""
    if is_nan or math.isnan(value):
        return math.nan
    return value if abs(value) < LARGEST else math.copysign(math.inf, value)


def from_tuples(rows: Iterable[tuple[Any, ...]], kinds: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of a database as a frame, made a column at a time: polars takes three times as long for tuples."""
    import polars as pl

    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    return pl.DataFrame([pl.Series(name, column, kind) for (name, kind), column in zip(kinds.items(), columns, strict=True)])


def as_logged(values: pl.Series) -> pl.Series:
    """`finite` of a column in which null stands for NaN."""
    import polars as pl

    signs = values.sign() * float("inf")
    frame = values.to_frame("value").select(pl.when(values.abs() >= LARGEST).then(signs).otherwise(values))
    return frame.to_series().fill_null(float("nan")).alias(values.name)


def by_key(long: pl.DataFrame, part: str) -> pl.DataFrame:
    """Rows of `run_id`, `key` and `value` as a row a run, with a column `<part>.<key>` for each key."""
    import polars as pl

    if not long.height:
        return pl.DataFrame(schema={"run_id": pl.String})
    return long.with_columns(key=pl.lit(f"{part}.") + pl.col("key")).pivot("key", index="run_id", values="value")


def from_rows(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """A frame of runs that are mappings: of `INFOS` what is known, and `params`, `tags`, `metrics` as mappings of their own."""
    import polars as pl

    rows = list(rows)
    columns = [pl.Series(key, [row.get(key) for row in rows], dtype) for key, dtype in info_kinds().items()]
    for part, dtype in part_kinds().items():
        values = [row[part] for row in rows]
        for key in sorted(set().union(*values)):
            columns.append(pl.Series(f"{part}.{key}", [value.get(key) for value in values], dtype))
    return pl.DataFrame(columns)


def are_runs(frame: pl.DataFrame) -> bool:
    """Whether a frame from elsewhere is one of `from_rows`: these columns, of these types, and no others."""
    infos, parts = info_kinds(), part_kinds()
    kinds = (infos.get(name) or parts.get(name.partition(".")[0]) for name in frame.columns)
    return frame.columns[: len(INFOS)] == list(INFOS) and frame.dtypes == list(kinds)


def ordered(frame: pl.DataFrame) -> pl.DataFrame:
    """Runs oldest first; columns by name, those that no run has left out: equal runs give equal frames."""
    own = [name for name in frame.columns if name not in INFOS]
    logged = [name for name, count in zip(own, frame.select(own).null_count().row(0), strict=True) if count < frame.height]
    kept = [*sorted(logged, key=_place), *([STATE] if STATE in own and STATE not in logged else [])]
    return oldest_first(frame.select(*INFOS, *kept))


def oldest_first(frame: pl.DataFrame) -> pl.DataFrame:
    """Runs oldest first, those of one moment by id."""
    started = frame["start_time"].fill_null(0)
    in_order = bool((started.diff().drop_nulls() > 0).all())
    return frame if in_order else frame.sort(started.alias("start"), "run_id")


def _place(name: str) -> tuple[int, str]:
    return ("params", "tags", "metrics", STATE).index(name.split(".", 1)[0]), name


def dated(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame as people get it: without what the cache keeps, and with times instead of milliseconds."""
    import polars as pl

    frame = frame.drop(STATE, strict=False)
    return frame.with_columns(pl.from_epoch(pl.col(*TIMES), time_unit="ms").dt.replace_time_zone("UTC"))

"""What a row of the board is called: its method and what tells it from the others. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracking.candidates import AT, number

if TYPE_CHECKING:
    import polars as pl

NOT_IN_LABEL = (
    "params.seed",
    "params.data.",
    "params.evaluation.",
    "params.student.dim",
    "params.student.resolution",
    "params.teacher.checkpoint",
    "params.method.name",
)
"""What repetitions share or not without being another configuration, and what has a column of its own."""
WORDS = {"params.student.checkpoint": "from "}
"""Params that a label names by a word: "yu/absolute from teacher"."""


def labels(found: pl.DataFrame, runs: pl.DataFrame, most: int = 4) -> pl.Series:
    """The method and, of the params that differ, those that each has: "s2sd temperature=0.5".

    A param of the method is compared with the same method's other candidates, any other param with all. `found` are the
    candidates of the frame `runs`.
    """
    import polars as pl

    names = [name for name in runs.columns if name.startswith("params.") and not name.startswith(NOT_IN_LABEL)]
    table = found.select("method", "reference", "published", "label").with_row_index("place")
    table = table.hstack(runs[found[AT].to_list()].select(names))
    compared = table.filter(pl.col("reference").is_null())
    general = _varying(compared, [name for name in names if not name.startswith("params.method.")])
    own = [name for name in names if name.startswith("params.method.")]
    parts = [
        part.select("place", _label(part, [*_varying(compared.filter(pl.col("method") == method), own), *general][:most]))
        for (method,), part in table.group_by("method")
    ]
    return pl.concat(parts).sort("place")["label"] if parts else pl.Series("label", [], pl.String)


def _varying(candidates: pl.DataFrame, keys: list[str]) -> list[str]:
    """The params that have several values among the candidates."""
    import polars as pl

    if candidates.height < 2 or not keys:
        return []
    counts = candidates.select(pl.col(sorted(keys)).drop_nulls().n_unique())
    return [key for key, count in zip(counts.columns, counts.row(0), strict=True) if count > 1]


def _label(candidates: pl.DataFrame, keys: list[str]) -> pl.Expr:
    """The labels of candidates of one method."""
    import polars as pl

    given = [_given(candidates[key], WORDS.get(key, f"{key.rsplit('.', 1)[-1]}=")) for key in keys]
    stated = (pl.col("published") != "") & (pl.col("label") != "") & ~pl.col("label").str.starts_with("trial ")
    told = pl.concat_str("method", *given)
    # A sweep may have two references of a kind: "teacher", and "teacher, student's resolution".
    nearer = pl.when(pl.col("label").str.starts_with(pl.concat_str("reference", pl.lit(",")))).then("label")
    return pl.coalesce(nearer, "reference", pl.when(stated).then("label"), told).alias("label")


def _given(values: pl.Series, word: str) -> pl.Series:
    """What a label says of a param: nothing where it has no value."""
    unique = [value for value in values.unique().to_list() if value not in (None, "")]
    told = [f" {word}{_short(value)}" for value in unique]
    return values.replace_strict([*unique, None, ""], [*told, "", ""])


def _short(text: str) -> str:
    value = number(text)
    text = text.rstrip("/").rsplit("/", 1)[-1]
    return text if value is None or len(text) <= 5 else f"{value:.3g}"

"""The columns of a leaderboard, and the frame made of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

COUNTS = ("rank", "validation_runs", "seeds", "runs", "failed", "test_looks", "trials")
TEXTS = (
    *("id", "label", "group", "method", "backbone", "reference", "role", "protocol", "status", "config_hash", "run_id"),
    *("experiment", "experiment_id", "commit", "reproduce", "select_by", "report"),
    *("published_key", "published_rule", "rule", "not_comparable"),
)
NUMBERS = (
    *("published", "difference", "validation", "test", "test_low", "test_high", "class_low", "class_high", "p_leader"),
    *("gap_closed", "gflops", "parameters", "dim", "resolution", "gallery_resolution", "latency_ms"),
    *("gpu_hours", "cpu_hours", "search_gpu_hours", "search_cpu_hours"),
)
LISTS = ("search_runs", "final_runs")
"""Run ids: those that chose the row, and those that are reported."""


def frame_of(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The tables of a board as one frame with every column, in the order given here, whatever else they hold."""
    import polars as pl

    kinds: dict[str, Any] = dict.fromkeys(COUNTS, pl.Int64) | dict.fromkeys(TEXTS, pl.String)
    kinds |= dict.fromkeys(NUMBERS, pl.Float64) | dict.fromkeys(LISTS, pl.List(pl.String))
    if not parts:
        return pl.DataFrame(schema=kinds)
    return pl.concat([part.select(pl.col(name).cast(kind) for name, kind in kinds.items()) for part in parts])

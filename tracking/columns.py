"""The columns of a leaderboard, and the frame made of them. Pure."""

from __future__ import annotations

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


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A frame with every column, in the order given here, whatever else the rows hold."""
    import polars as pl

    columns = [pl.Series(name, [row[name] for row in rows], pl.Int64) for name in COUNTS]
    columns += [pl.Series(name, [row[name] for row in rows], pl.String) for name in TEXTS]
    columns += [pl.Series(name, [row[name] for row in rows], pl.Float64) for name in NUMBERS]
    # Joined and taken apart again: polars reads lists of texts from Python a hundred times slower than texts.
    columns += [pl.Series(name, [";".join(row[name]) for row in rows], pl.String) for name in LISTS]
    return pl.DataFrame(columns).with_columns(pl.col(LISTS).str.extract_all("[^;]+"))

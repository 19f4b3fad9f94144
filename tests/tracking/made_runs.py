"""Rows as `load_runs` gives them, made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

VAL, TEST = "metrics.val/recall_at_1", "metrics.test/recall_at_1"


def run(row: str, seed: int = 0, *, val: float | None = None, test: float | None = None, **given: Any) -> dict[str, Any]:
    """One row of `load_runs`: a search run where `val` is given, a final run where `test` is."""
    stage = "final" if test is not None else "search"
    own = row if stage == "search" else f"{row[:4]}ffff{seed:04d}"
    base = {"run_id": f"{row}-{stage}-{seed}", "status": "FINISHED", "start_time": 1000 + seed, "tags.dmkd.row": row}
    base |= {"tags.dmkd.config_hash": own, "tags.dmkd.stage": stage, "tags.dmkd.seed": str(seed), "tags.dmkd.method": "yu"}
    return base | {"tags.dmkd.protocol": "p1", "params.method.weight": row[:1], VAL: val, TEST: test} | given


def table(*runs: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(runs), infer_schema_length=None)


def order(frame: pl.DataFrame) -> list[tuple[str, int | None]]:
    return [(row["config_hash"][0], row["rank"]) for row in frame.to_dicts()]


def outcomes(hits: np.ndarray) -> dict[str, np.ndarray]:
    """Queries of 40 classes, 5 each; a hit is a first positive at rank 1."""
    zeros = np.zeros(hits.size)
    return {
        "query": np.arange(hits.size),
        "label": np.arange(hits.size) // 5,
        "first_hit": np.where(hits, 1, 3),
        "ap": zeros,
        "ap_at_r": zeros,
    }


def references() -> list[dict[str, Any]]:
    scores = {"undistilled": 0.3, "teacher": 0.7, "untrained": 0.1}
    return [run(f"{kind[:4]}eeee1111", test=score) | {"tags.dmkd.reference": kind} for kind, score in scores.items()]

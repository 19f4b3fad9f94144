"""What tests of runs give, and how they look at what arrived and what still lies on disk."""

from __future__ import annotations

from pathlib import Path

from tracking.client import connect

GIVEN = {"params": {"method.temperature": 0.5, "seed": 0}, "tags": {"dmkd.seed": 0}}


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in connect(uri).get_metric_history(run_id, key)]


def spools(state: Path) -> list[Path]:
    return sorted((state / "spool").glob("*"))

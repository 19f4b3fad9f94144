"""What a search spent: hours of a row's sweeps, trials of its method, and which methods were searched more than others. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

Hours = tuple[float, float]
"""Of GPUs, and of CPUs where no GPU was at work."""


def sweep_hours(runs: pl.DataFrame) -> dict[str, Hours]:
    """What the search of each sweep took, its pruned and failed trials included; by the tag `dmkd.sweep`."""
    import polars as pl

    if not {"tags.dmkd.sweep", "tags.dmkd.stage"} <= set(runs.columns):
        return {}
    known = [kind for kind in ("gpu", "train") if f"metrics.cost/{kind}_seconds" in runs.columns]
    hours = {kind: pl.col(f"metrics.cost/{kind}_seconds").cast(pl.Float64) / 3600 for kind in known}
    searched = runs.filter((pl.col("tags.dmkd.stage") == "search") & (pl.col("tags.dmkd.sweep") != ""))
    zero = dict.fromkeys(("gpu", "train"), pl.lit(0.0))
    known_hours = zero | {kind: pl.when(column.is_finite()).then(column).otherwise(0.0) for kind, column in hours.items()}
    rows = searched.select(
        "tags.dmkd.sweep", gpu=known_hours["gpu"], cpu=pl.when(known_hours["gpu"] == 0).then(known_hours["train"]).otherwise(0.0)
    )
    return {sweep: (gpu, cpu) for sweep, gpu, cpu in rows.group_by("tags.dmkd.sweep").sum().iter_rows()}


def budgets(found: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """The columns `search_gpu_hours`, `search_cpu_hours` and `trials` of each of the candidates `found`; nulls where nothing was
    searched. Trials are those of the method in its table, pruned and failed ones included."""
    import polars as pl

    hours = sweep_hours(runs)
    sweeps = [tuple(names) for names in found["sweeps"].to_list()]
    known = {names: _spent(names, hours) for names in set(sweeps)}
    spent = [known[names] for names in sweeps]
    trials = found.select(pl.col("searched").sum().over("protocol", "method").cast(pl.Int64).alias("trials"))
    return trials.select(
        pl.Series("search_gpu_hours", [gpu for gpu, _ in spent], pl.Float64),
        pl.Series("search_cpu_hours", [cpu for _, cpu in spent], pl.Float64),
        pl.when(pl.col("trials") > 0).then("trials"),
    )


def _spent(sweeps: tuple[str, ...], hours: dict[str, Hours]) -> tuple[float | None, float | None]:
    known = [hours[sweep] for sweep in sweeps if sweep in hours]
    return (math.fsum(gpu for gpu, _ in known), math.fsum(cpu for _, cpu in known)) if known else (None, None)


def unequal(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Trials by method, where methods that were searched had different numbers of them; else nothing."""
    counts = {row["method"]: row["trials"] for row in rows if row["trials"]}
    return counts if len(set(counts.values())) > 1 else {}

"""What a search spent: hours of a row's sweeps, trials of its method, and which methods were searched more than others. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from tracking.candidates import Candidate

Hours = tuple[float, float]
"""Of GPUs, and of CPUs where no GPU was at work."""


def sweep_hours(runs: pl.DataFrame) -> dict[str, Hours]:
    """What the search of each sweep took, its pruned and failed trials included; by the tag `dmkd.sweep`."""
    needed = {"tags.dmkd.sweep": "sweep", "tags.dmkd.stage": "stage"} | {
        f"metrics.cost/{kind}_seconds": kind for kind in ("gpu", "train")
    }
    kept = {column: name for column, name in needed.items() if column in runs.columns}
    if not {"sweep", "stage"} <= set(kept.values()):
        return {}
    spent: dict[str, list[Hours]] = defaultdict(list)
    for row in runs.select(*kept).rename(kept).iter_rows(named=True):
        if row["sweep"] and row["stage"] == "search":
            gpu, train = (_known(row.get(kind)) / 3600 for kind in ("gpu", "train"))
            spent[row["sweep"]].append((gpu, train - gpu))
    return {sweep: (math.fsum(gpu for gpu, _ in hours), math.fsum(cpu for _, cpu in hours)) for sweep, hours in spent.items()}


def trials_of_methods(found: list[Candidate]) -> dict[tuple[str, str], int]:
    """How many trials each method had in a table, pruned and failed ones included; by protocol and method."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for candidate in found:
        counts[candidate.protocol, candidate.method] += sum(run.get("tags.dmkd.stage") == "search" for run in candidate.runs)
    return dict(counts)


def budgets(found: list[Candidate], runs: pl.DataFrame) -> list[dict[str, Any]]:
    """The columns `search_gpu_hours`, `search_cpu_hours` and `trials` of each candidate; nulls where nothing was searched."""
    hours, trials = sweep_hours(runs), trials_of_methods(found)
    return [_budget(candidate, hours, trials[candidate.protocol, candidate.method]) for candidate in found]


def _budget(candidate: Candidate, hours: dict[str, Hours], trials: int) -> dict[str, Any]:
    spent = [hours[sweep] for sweep in candidate.sweeps if sweep in hours]
    gpu, cpu = (math.fsum(one[kind] for one in spent) if spent else None for kind in (0, 1))
    return {"search_gpu_hours": gpu, "search_cpu_hours": cpu, "trials": trials or None}


def unequal(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Trials by method, where methods that were searched had different numbers of them; else nothing."""
    counts = {row["method"]: row["trials"] for row in rows if row["trials"]}
    return counts if len(set(counts.values())) > 1 else {}


def _known(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0

"""What a sweep has cost, read from what its runs left in their folders: it counts what was pruned, failed or resumed too."""

from __future__ import annotations

import json
from pathlib import Path


def spent(folder: Path) -> dict[str, float]:
    """`sweep/runs`, `sweep/epochs`, `sweep/train_seconds` and, where a GPU was used, `sweep/gpu_seconds` of all runs together."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/progress.json"))]
    total = {"sweep/runs": float(len(runs)), "sweep/epochs": float(sum(run["epoch"] for run in runs))}
    for name in ("train_seconds", "gpu_seconds"):
        used = [run["metrics"][f"cost/{name}"] for run in runs if f"cost/{name}" in run["metrics"]]
        total |= {f"sweep/{name}": float(sum(used))} if used else {}
    return total

"""What stands in the printed columns of a leaderboard. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def score(value: float | None, metric: str) -> str:
    """A score in percent, or as it is where it is no share; empty where there is none."""
    if value is None:
        return ""
    share = not metric.startswith(("cost/", "model/")) and not metric.endswith(("loss", "density", "decay"))
    return f"{100 * value:.1f}" if share else f"{value:.4g}"


def _test(row: Row) -> str:
    mean, low, high = row["test"], row["test_low"], row["test_high"]
    if mean is None or low is None or not math.isfinite(low):
        return score(mean, row["report"])
    return f"{score(mean, row['report'])} ± {score((high - low) / 2, row['report'])}"


def _classes(row: Row) -> str:
    low, high = row["class_low"], row["class_high"]
    return "" if low is None or not math.isfinite(low) else f"[{score(low, row['report'])}, {score(high, row['report'])}]"


def _difference(row: Row) -> str:
    """Measured less printed, in brackets where the two are not comparable."""
    if row["difference"] is None:
        return ""
    text = score(abs(row["difference"]), row["report"])
    signed = ("-" if row["difference"] < 0 else "+") + text
    return f"({signed})" if row["not_comparable"] else signed


def spent(hours: tuple[float | None, float | None], unit: str = " hours") -> str:
    """Hours of GPUs, or of CPUs where no GPU was at work; empty where none are known."""
    gpu, cpu = hours
    kind, total = ("GPU", gpu) if gpu else ("CPU", cpu)
    return f"{total:.2g} {kind}{unit}" if total else ""


def _gap(row: Row) -> str:
    """Percent of the teacher gap; references define it and say nothing."""
    return "" if row["gap_closed"] is None or row["reference"] else f"{100 * row['gap_closed']:.0f} %"


def _pixels(row: Row) -> str:
    """Query resolution, and that of the gallery where another network embeds it at another one."""
    query, gallery = (row[name] for name in ("resolution", "gallery_resolution"))
    return "" if query is None else f"{query:.0f}" if gallery in (None, query) else f"{query:.0f}/{gallery:.0f}"


def _configuration(row: Row) -> str:
    """What the row is called, after its group where the name does not begin with that already ("raml", by method)."""
    group = row["group"]
    return row["label"] if group is None or row["label"].split()[:1] == [group] else f"{group}: {row['label']}"


def _figure(name: str, unit: float = 1) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else f"{row[name] / unit:.3g}"


COLUMNS: list[tuple[str, Callable[[Row], str]]] = [
    ("#", lambda row: str(row["place"])),
    ("rank", lambda row: "" if row["rank"] is None else str(row["rank"])),
    ("id", lambda row: row["id"]),
    ("configuration", _configuration),
    ("val", lambda row: score(row["validation"], row["select_by"])),
    ("test", _test),
    ("over classes", _classes),
    ("published", lambda row: "" if row["published"] is None else score(row["published"], row["report"])),
    ("difference", _difference),
    ("gap", _gap),
    ("seeds", lambda row: str(row["seeds"] or "")),
    ("GFLOPs", _figure("gflops")),
    ("Mparam", _figure("parameters", 1e6)),
    ("dim", lambda row: "" if row["dim"] is None else f"{row['dim']:.0f}"),
    ("px", _pixels),
    ("ms", _figure("latency_ms")),
    ("hours", lambda row: spent((row["gpu_hours"], row["cpu_hours"]), "")),
    ("looks", lambda row: str(row["test_looks"] or "")),
]
"""Titles of the printed columns, and what stands in them; a column that is empty in every row is left out."""
UNITS = {
    "GFLOPs": "GFLOPs",
    "Mparam": "million parameters",
    "dim": "dimensions",
    "px": "px",
    "ms": "ms a query",
    "looks": "test look a seed",
}
"""Columns that are told once below the table where all rows agree, and how."""

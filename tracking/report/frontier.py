"""Figures of rows: accuracy against cost with its Pareto front, and measured against printed numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tracking.comparison import scale
from tracking.report.material import Material, Row
from tracking.report.style import GRID, INK, MUTED, NARROW, SERIES, colour_of, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PRINTED = 24


def pareto(rows: list[Row]) -> list[Row]:
    """The rows that no other beats in `test` at no more `gflops`, cheapest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["gflops"], -row["test"])):
        if not front or row["test"] > front[-1]["test"]:
            front.append(row)
    return front


def accuracy_against_cost(material: Material) -> Figure | None:
    """Test score against GFLOPs of a query, with intervals over seeds; the line joins the rows that no cheaper one reaches."""
    rows = [row for row in material.rows if row["test"] is not None and math.isfinite(row["test"]) and row["gflops"]]
    if not rows:
        return None
    looks = colour_of([_group(row) for row in rows])
    with sheet(NARROW, 3.9) as (figure, (axes,)):
        front = pareto(rows)
        axes.step(
            [row["gflops"] for row in front], [100 * row["test"] for row in front], where="post", color=MUTED, lw=1.2, zorder=1
        )
        for name, (colour, marker) in looks.items():
            _points(axes, [row for row in rows if _group(row) == name], name, colour, marker)
        if len({row["gflops"] for row in rows}) > 1:
            axes.set_xscale("log")
            _plain_ticks(axes, sorted({row["gflops"] for row in rows}))
        axes.set_xlabel("GFLOPs of a query (a multiply-add counts one)")
        axes.set_ylabel(f"{material.metric}, %")
        axes.margins(0.08)
        figure.legend(loc="outside lower left", ncols=2)
    return figure


def _group(row: Row) -> str:
    return str(row["reference"] or row["method"])


def _points(axes: Axes, rows: list[Row], name: str, colour: str, marker: str) -> None:
    for row in rows:
        if row["test_low"] is not None and math.isfinite(row["test_low"]):
            ends = [100 * row["test_low"], 100 * row["test_high"]]
            axes.plot([row["gflops"]] * 2, ends, color=colour, lw=1.0, alpha=0.6, zorder=2)
        if row["rank"] is not None:
            axes.annotate(
                f"{row['rank']}", (row["gflops"], 100 * row["test"]), (5, 4), textcoords="offset points", size=8, color=MUTED
            )
    reference = bool(rows[0]["reference"])
    axes.scatter(
        [row["gflops"] for row in rows],
        [100 * row["test"] for row in rows],
        s=42,
        marker=marker,
        facecolor="none" if reference else colour,
        edgecolor=colour,
        label=name,
        zorder=3,
    )


def _plain_ticks(axes: Axes, values: list[float]) -> None:
    """Ticks at the rows' own costs, as far as they do not lie upon each other."""
    kept: list[float] = []
    span = math.log(values[-1] / values[0])
    for value in values:
        if not kept or math.log(value / kept[-1]) > 0.12 * span:
            kept.append(value)
    axes.set_xticks(kept, [f"{value:.2g}" for value in kept])
    axes.set_xticks([], minor=True)


def measured_against_printed(material: Material) -> Figure | None:
    """Each printed number that was measured too: a line from the printed to the measured value."""
    rows = sorted(material.printed, key=lambda row: (row["score"], row["key"]))[:MOST_PRINTED]
    if not rows:
        return None
    with sheet(NARROW, 1.3 + 0.3 * len(rows)) as (figure, (axes,)):
        places = range(len(rows), 0, -1)
        for place, row in zip(places, rows, strict=True):
            values = [row[name] * scale(row["score"]) for name in ("published", "measured")]
            axes.plot(values, [place, place], color=GRID if row["not_comparable"] else MUTED, lw=1.4, zorder=1)
            axes.scatter(values[0], place, marker="|", s=110, color=INK, zorder=2)
            axes.scatter(
                values[1], place, s=38, color="none" if row["not_comparable"] else SERIES[0], edgecolor=SERIES[0], zorder=3
            )
        axes.set_yticks(list(places), [f"{row['row'] or row['key']}\n{row['score'].removeprefix('test/')}" for row in rows])
        axes.set_xlabel("printed ( | ) and measured ( o, hollow: not comparable )")
        axes.set_ylim(0.3, len(rows) + 0.7)
    return figure

"""Figures of training: curves with bands over seeds, and what the resolutions of queries and gallery do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tracking.report.material import MOST_CURVES, Material, Row
from tracking.report.style import NARROW, SERIES, WIDE, colour_of, sheet

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MATRICES = 4
LOSS = "train/loss"
LONGEST = 30
"""Letters of a label that stand beside a curve or above a matrix."""


def learning_curves(material: Material) -> Figure | None:
    """Validation score in the search and loss in the final stage, epoch by epoch; bands from the lowest to the highest seed."""
    rows = material.ranked[:MOST_CURVES]
    panels = [
        (material.chosen_by, "search_runs", f"{material.chosen_by}, % (search)", 100.0),
        (LOSS, "final_runs", f"{LOSS} (final stage)", 1.0),
    ]
    drawn = [panel for panel in panels if any(_curve(material, row[panel[1]], panel[0]).height for row in rows)]
    if not drawn:
        return None
    looks = colour_of([_named(row) for row in rows])
    with sheet(WIDE if len(drawn) > 1 else NARROW, 3.9, 1, len(drawn)) as (figure, sheets):
        for axes, (key, runs, label, unit) in zip(sheets, drawn, strict=True):
            for row in rows:
                _band(axes, _curve(material, row[runs], key), unit, looks[_named(row)], _named(row))
            axes.set_xlabel("epoch")
            axes.set_title(label)
        handles = {name: handle for axes in sheets for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=2)
    return figure


def _named(row: Row) -> str:
    label = row["label"] if len(row["label"]) <= LONGEST else f"{row['label'][: LONGEST - 1]}…"
    return f"{row['id'][:4]} {label}"


def _curve(material: Material, run_ids: list[str], key: str) -> pl.DataFrame:
    """`step`, `mean`, `low`, `high` and `runs` of a metric over some runs."""
    import polars as pl

    own = material.histories.filter(pl.col("run_id").is_in(run_ids) & (pl.col("key") == key) & pl.col("value").is_finite())
    value = pl.col("value")
    return own.group_by("step").agg(value.mean().alias("mean"), value.min().alias("low"), value.max().alias("high")).sort("step")


def _band(axes: Axes, curve: pl.DataFrame, unit: float, look: tuple[str, str], name: str) -> None:
    if not curve.height:
        return
    steps, (mean, low, high) = curve["step"].to_list(), ((unit * curve[side]).to_list() for side in ("mean", "low", "high"))
    axes.plot(steps, mean, color=look[0], marker=look[1], markersize=4, label=name)
    axes.fill_between(steps, low, high, color=look[0], alpha=0.15, linewidth=0)


def resolution_matrix(material: Material) -> Figure | None:
    """The score at each pair of query and gallery resolutions, for the best rows and the teacher."""
    found = [(row, matrix) for row in material.rows if (matrix := matrix_of(material, row))]
    order = sorted(found, key=lambda pair: (pair[0]["rank"] is None, pair[0]["rank"] or 0))
    teachers = [pair for pair in order if pair[0]["reference"] == "teacher"][:1]
    chosen = order[: MOST_MATRICES - len(teachers)]
    chosen += [pair for pair in teachers if pair not in chosen]
    if not chosen:
        return None
    values = [value for _, matrix in chosen for value in matrix.values()]
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    with sheet(WIDE if columns > 1 else NARROW, 0.4 + 2.3 * rows, rows, columns) as (figure, sheets):
        for axes, (row, matrix) in zip(sheets, chosen, strict=False):
            _heat(axes, matrix, (min(values), max(values)))
            axes.set_title(_named(row))
        for axes in sheets[len(chosen) :]:
            axes.set_visible(False)
    return figure


def matrix_of(material: Material, row: Row) -> dict[tuple[int, int], float]:
    """{(query, gallery): mean score over the row's runs}; empty where fewer than two pairs were measured."""
    final = bool(row["final_runs"])
    role, metric = (material.metric if final else material.chosen_by).split("/", 1)
    pattern = re.compile(rf"metrics\.{re.escape(role)}_q(\d+)_g(\d+)/{re.escape(metric)}")
    runs = material.board.runs
    own = runs.filter(runs["run_id"].is_in(row["final_runs"] or row["search_runs"]))
    found: dict[tuple[int, int], float] = {}
    for name in own.columns:
        values = own[name].drop_nulls() if (match := pattern.fullmatch(name)) else None
        if match and values is not None and values.len():
            found[int(match[1]), int(match[2])] = float(values.to_numpy().mean())
    return found if len(found) > 1 else {}


def _heat(axes: Axes, matrix: dict[tuple[int, int], float], ends: tuple[float, float]) -> None:
    queries, galleries = (sorted({pair[side] for pair in matrix}) for side in (0, 1))
    low, high = ends
    for (query, gallery), value in matrix.items():
        share = (value - low) / ((high - low) or 1.0)
        corner = (galleries.index(gallery) - 0.5, queries.index(query) - 0.5)
        axes.add_patch(_cell(corner, 0.08 + 0.55 * share))
        axes.text(corner[0] + 0.5, corner[1] + 0.5, f"{100 * value:.1f}", ha="center", va="center")
    axes.set_xticks(range(len(galleries)), [f"{size} px" for size in galleries])
    axes.set_yticks(range(len(queries)), [f"{size} px" for size in queries])
    axes.set_xlabel("gallery")
    axes.set_ylabel("query")
    axes.set_xlim(-0.5, len(galleries) - 0.5)
    axes.set_ylim(-0.5, len(queries) - 0.5)
    axes.grid(visible=False)


def _cell(corner: tuple[float, float], strength: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, facecolor=SERIES[0], alpha=strength, linewidth=0)

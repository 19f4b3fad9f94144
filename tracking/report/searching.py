"""Figures of the search: what each param does, all of them at once, and what the epochs bought."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tracking.report.material import Material, Searched
from tracking.report.style import GRID, MUTED, NARROW, SERIES, WIDE, colour_of, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PARAMS = 9
MOST_AXES = 8


def sensitivity(material: Material) -> Figure | None:
    """The validation score of every trial against each searched param, those of most importance first."""
    found = sorted(material.searched, key=lambda one: -material.importances.get(one.name, 0.0))[:MOST_PARAMS]
    if not found:
        return None
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    looks = colour_of([method for one in found for method in one.methods])
    with sheet(WIDE if columns > 1 else NARROW, 0.6 + 2.35 * rows, rows, columns) as (figure, sheets):
        for axes, one in zip(sheets, found, strict=False):
            _panel(axes, one, looks)
            axes.set_title(_titled(one, material.importances.get(one.name)))
        for axes in sheets[len(found) :]:
            axes.set_visible(False)
        for axes in sheets[::columns]:
            axes.set_ylabel(f"{material.chosen_by}, %")
        handles = {
            name: axes_handle for axes in sheets for axes_handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=3)
    return figure


def _titled(one: Searched, importance: float | None) -> str:
    name = one.name.removeprefix("method.").removeprefix("student.").removeprefix("optim.")
    name = f"{name} ({one.method})" if one.method else name
    return name if importance is None else f"{name}: {100 * importance:.0f} %"


def _panel(axes: Axes, one: Searched, looks: dict[str, tuple[str, str]]) -> None:
    places = _positions(one.values, numeric=one.numeric)
    for method in dict.fromkeys(one.methods):
        colour, marker = looks[method]
        mine = [place for place, own in enumerate(one.methods) if own == method]
        axes.scatter(
            [places[place] for place in mine],
            [100 * one.scores[place] for place in mine],
            s=30,
            color=colour,
            marker=marker,
            label=method,
        )
    if one.numeric:
        if is_logarithmic(one.values):
            axes.set_xscale("log")
        return
    kinds = list(dict.fromkeys(sorted(one.values, key=str)))
    axes.set_xticks(range(len(kinds)), [_wrapped(kind) for kind in kinds])
    axes.set_xlim(-0.5, len(kinds) - 0.5)


def is_logarithmic(values: Sequence[Any]) -> bool:
    """Whether numbers span so much that a logarithmic axis shows them better."""
    return bool(min(values) > 0 and max(values) / min(values) >= 20)


def _positions(values: Sequence[Any], *, numeric: bool) -> list[float]:
    if numeric:
        return [float(value) for value in values]
    kinds = list(dict.fromkeys(sorted(values, key=str)))
    return [float(kinds.index(value)) for value in values]


def _wrapped(kind: Any) -> str:
    text = f"{kind:g}" if isinstance(kind, float) else str(kind)
    return text if len(text) <= 12 else f"{text[:11]}…"


def parallel_coordinates(material: Material) -> Figure | None:
    """A line a trial through the values of the searched params to its score; the better, the stronger."""
    general = [one for one in material.searched if not one.method][:MOST_AXES]
    if len(general) < 2 or len(material.trials) < 3:
        return None
    scores = [100 * float(trial[f"metrics.{material.chosen_by}"]) for trial in material.trials]
    axes_of = {one.name: one for one in general if len(one.values) == len(material.trials)}
    if len(axes_of) < 2:
        return None
    heights = [_heights(one) for one in axes_of.values()]
    low, high = min(scores), max(scores)
    with sheet(WIDE, 3.6) as (figure, (axes,)):
        _ladder(axes, list(axes_of.values()), (low, high))
        for place in sorted(range(len(scores)), key=scores.__getitem__):
            share = (scores[place] - low) / ((high - low) or 1.0)
            line = [*(column[place] for column in heights), share]
            axes.plot(
                range(len(line)),
                line,
                color=SERIES[0] if share > 0.5 else SERIES[1],
                alpha=0.25 + 0.7 * abs(2 * share - 1),
                lw=1.6,
            )
        axes.set_axis_off()
    return figure


def _heights(one: Searched) -> list[float]:
    values = _positions(one.values, numeric=one.numeric)
    if one.numeric and is_logarithmic(values):
        values = [math.log(value) for value in values]
    low, high = min(values), max(values)
    return [(value - low) / ((high - low) or 1.0) for value in values]


def _ladder(axes: Axes, found: list[Searched], ends: tuple[float, float]) -> None:
    """The upright lines with their names and ends."""
    for place, one in enumerate(found):
        axes.plot([place, place], [0, 1], color=GRID, lw=1.2, zorder=0)
        axes.text(place, 1.13, one.name.rsplit(".", 1)[-1], ha="center", weight="bold")
        kinds = sorted(set(one.values), key=str)
        if one.numeric:
            for height, value in ((-0.07, min(one.values)), (1.04, max(one.values))):
                axes.text(place, height, f"{value:.3g}", ha="center", color=MUTED, size=8.5)
            continue
        for kind in kinds:
            height = kinds.index(kind) / max(1, len(kinds) - 1)
            axes.text(place, height + (0.04 if height else -0.07), _wrapped(kind), ha="center", color=MUTED, size=8.5)
    axes.plot([len(found)] * 2, [0, 1], color=MUTED, lw=1.2, zorder=0)
    axes.text(len(found), 1.13, "score, %", ha="center", weight="bold")
    for height, value in ((-0.07, ends[0]), (1.04, ends[1])):
        axes.text(len(found), height, f"{value:.1f}", ha="center", color=MUTED, size=8.5)
    axes.set_ylim(-0.1, 1.2)
    axes.set_xlim(-0.35, len(found) + 0.35)


def search_progress(material: Material) -> Figure | None:
    """Every trial's score where the epochs that the search had spent stood, and the best so far."""
    spent = _epochs(material)
    if len(material.trials) < 2:
        return None
    scores = [100 * float(trial[f"metrics.{material.chosen_by}"]) for trial in material.trials]
    at = list(accumulate(spent))
    with sheet(NARROW, 3.2) as (figure, (axes,)):
        axes.scatter(at, scores, s=30, color=SERIES[0], label="a trial", zorder=3)
        axes.step([0, *at], [scores[0], *accumulate(scores, max)], where="post", color=SERIES[1], label="best so far")
        axes.set_xlabel("epochs spent by the search")
        axes.set_ylabel(f"{material.chosen_by}, %")
        figure.legend(loc="outside lower left", ncols=2)
    return figure


def _epochs(material: Material) -> list[int]:
    """Of each trial, in the order of their ends."""
    import polars as pl

    steps = material.histories.group_by("run_id").agg(pl.col("step").max())
    known = dict(steps.iter_rows())
    return [int(known.get(trial["run_id"]) or 1) for trial in material.trials]

"""Every figure of a report, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tracking.report.frontier import accuracy_against_cost, measured_against_printed, pareto
from tracking.report.material import Material
from tracking.report.searching import parallel_coordinates, search_progress, sensitivity
from tracking.report.training import learning_curves, resolution_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plate(NamedTuple):
    """A figure that can be drawn: its file's name, its title, what to say below it, and the drawing."""

    name: str
    title: str
    caption: str
    figure: Figure


Drawer = Callable[[Material], "Figure | None"]
KINDS: tuple[tuple[str, str, Drawer, str], ...] = (
    (
        "pareto",
        "Accuracy against cost",
        accuracy_against_cost,
        "Test score against the cost of embedding one query. The stepped line is the Pareto front: no cheaper row reaches it. "
        "Numbers: ranks by validation; upright lines: 95 % intervals over seeds; hollow marks: references.",
    ),
    (
        "sensitivity",
        "What the searched settings do",
        sensitivity,
        "Every trial's validation score against each setting. A percentage is its share of importance (Optuna, PED-ANOVA).",
    ),
    (
        "parallel",
        "All settings at once",
        parallel_coordinates,
        "A line a trial, from setting to setting to its score on the right; strong blue: the best trials, orange: the worst.",
    ),
    (
        "progress",
        "What the search bought",
        search_progress,
        "Validation score of each trial where the search had spent so many epochs.",
    ),
    (
        "curves",
        "Learning curves",
        learning_curves,
        "Mean over a row's runs; the band reaches from its lowest to its highest run.",
    ),
    (
        "resolutions",
        "Query resolution against gallery resolution",
        resolution_matrix,
        "Score with queries of one resolution and a gallery of another, in percent; the stronger the colour, the higher.",
    ),
    (
        "published",
        "Measured against published",
        measured_against_printed,
        "Numbers that the paper printed beside those measured here. A hollow mark is not comparable; the table says why.",
    ),
)


def draw(material: Material) -> list[Plate]:
    """The figures for which there is something to show."""
    found = [(name, title, caption, drawer(material)) for name, title, drawer, caption in KINDS]
    return [Plate(name, title, caption, figure) for name, title, caption, figure in found if figure is not None]


def missing(plates: list[Plate]) -> list[str]:
    """Titles of those for which there is nothing."""
    drawn = {plate.name for plate in plates}
    return [title for name, title, _, _ in KINDS if name not in drawn]


def described(name: str, material: Material) -> str:
    """A sentence on what a figure shows, for those who cannot see it."""
    rows = [row for row in material.rows if row["test"] is not None and row["gflops"]]
    if name == "pareto" and rows:
        told = (f"{row['label']} {100 * row['test']:.1f} % at {row['gflops']:.3g} GFLOPs" for row in pareto(rows))
        return f"{len(rows)} rows. On the front: {'; '.join(told)}."
    if name == "progress" and material.trials:
        best = max(float(trial[f"metrics.{material.chosen_by}"]) for trial in material.trials)
        return f"{len(material.trials)} trials; the best reached {100 * best:.1f} %."
    if name == "sensitivity":
        return "Settings: " + ", ".join(f"{one.name} {one.method}".strip() for one in material.searched) + "."
    return "The table of this page has the numbers."

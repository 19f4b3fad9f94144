"""How figures look: one drawing for light and dark pages, and for a file of its own."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1a1b1e", "#5b6068", "#d9dce1", "#ffffff"
SERIES = ("#1f6fb4", "#b4530a", "#1d7a4e", "#9b3a86", "#8a6d00", "#5a54c4", "#b3263c", "#4c6a78")
"""On white at least 4.5 to 1, and told apart by shape too; a dark page has lighter ones of the same order."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {colour: f"series{n}" for n, colour in enumerate(SERIES)}
"""Colour of a drawing: name of the page's own colour (a CSS variable)."""
WIDE, NARROW = 7.2, 5.2
"""Inches."""

RC: Any = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": PAPER,
    "figure.dpi": 100,
}


@contextmanager
def sheet(width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with its axes, drawn outside of any window."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def colour_of(names: list[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each name, in their order; the palette begins again after eight."""
    unique = dict.fromkeys(names)
    return {name: (SERIES[n % len(SERIES)], MARKERS[n % len(MARKERS)]) for n, name in enumerate(unique)}


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG file."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(RC | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "dmkd"})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, on white."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def inline(drawing: str, name: str, title: str, description: str) -> str:
    """An SVG drawing to stand in a page: its colours are the page's, its ids its own; named for those who cannot see it."""
    from html import escape

    body = drawing[drawing.index("<svg") :]
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'(\bid="|url\(#|xlink:href="#|href="#)', rf"\g<1>{name}-", rest)
    for colour, variable in COLOURS.items():
        rest = re.sub(re.escape(colour), f"var(--{variable})", rest, flags=re.IGNORECASE)
    rest = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", rest)
    told = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    view = box[1] if box else "0 0 100 100"
    labels = f'role="img" aria-labelledby="{name}-title {name}-desc"'
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{view}" {labels}>{told}{rest}'

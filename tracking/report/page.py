"""The page: everything in one file that asks no network for anything."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from tracking.report import table
from tracking.report.figures import Plate, described, missing
from tracking.report.material import Material, Retrieved
from tracking.report.style import inline, svg

HERE = Path(__file__).parent
WIDE = ("sensitivity", "parallel", "curves", "resolutions")
"""Figures that take a line of the page for themselves."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses whatever is not in the file."""


def page(material: Material, plates: list[Plate], drawings: dict[str, str]) -> str:
    """The whole HTML file. `drawings`: the figures as SVG, by name."""
    title = f"{material.board.experiment}: leaderboard and report"
    style, script = (_read(HERE / name) for name in ("page.css", "page.js"))
    parts = [_facts(material), _tables(material), _plates(material, plates, drawings), _gallery(material), _failures(material)]
    notes = [*material.notes, *([f"No data for: {', '.join(absent)}."] if (absent := missing(plates)) else [])]
    foot = "".join(f"<p>{escape(note)}</p>" for note in notes)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">
<title>{escape(title)}</title><style>{style}</style></head><body>
<header><div><h1>{escape(material.board.experiment)}</h1><p class="muted">{_subtitle(material)}</p></div>
<button type="button" id="theme" hidden>Dark</button></header>
<main>{"".join(parts)}</main>
<footer class="muted">{foot}<p>Made by dmkd, {now}, from {escape(_place(material.board.uri))}.</p></footer>
<script>{script}</script></body></html>
"""


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _place(uri: str) -> str:
    """The tracker without what could be a secret in its address."""
    return uri.rsplit("@", 1)[-1] if "@" in uri else uri


def _subtitle(material: Material) -> str:
    trials, runs = len(material.trials), material.board.runs.height
    return escape(
        f"Chosen by {material.chosen_by}, reported {material.metric}; {runs} runs, {trials} finished trials of a search."
    )


def _facts(material: Material) -> str:
    if not material.ranked:
        return "<section><h2>In short</h2><p>No row is ranked: no run has finished with a finite validation score.</p></section>"
    best = material.ranked[0]
    tied = sum(row["rank"] == 1 for row in material.ranked)
    facts: list[tuple[str, str, str]] = [
        ("First by validation", best["label"], f"row {best['id']}" + (f", one of {tied} that share rank 1" if tied > 1 else ""))
    ]
    facts.append(("Validation", _percent(best["validation"]), material.chosen_by))
    if best["test"] is not None:
        facts.append(("Test", _percent(best["test"]), _interval(best)))
    if best["gap_closed"] is not None:
        facts.append(("Teacher gap closed", f"{100 * best['gap_closed']:.0f} %", "from undistilled to teacher, on test"))
    if best["gflops"] is not None:
        facts.append(
            ("Cost of a query", f"{best['gflops']:.3g} GFLOPs", f"{(best['parameters'] or 0) / 1e6:.3g} million parameters")
        )
    hours = best["search_gpu_hours"] or best["search_cpu_hours"]
    if hours:
        facts.append(("Its search", f"{hours:.2g} {'GPU' if best['search_gpu_hours'] else 'CPU'} hours", "all trials together"))
    cells = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in facts)
    return f'<section><h2>In short</h2><dl class="facts">{cells}</dl></section>'


def _percent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def _interval(row: dict[str, Any]) -> str:
    if row["test_low"] is None or not math.isfinite(row["test_low"]):
        return f"{row['seeds']} seed"
    return f"{100 * row['test_low']:.1f} to {100 * row['test_high']:.1f} (95 %, {row['seeds']} seeds)"


def _tables(material: Material) -> str:
    from tracking.render import notes_of, shared_by

    frame = material.board.frame
    parts = []
    for number, protocol in enumerate(frame["protocol"].unique(maintain_order=True), 1):
        rows = [row | {"place": place} for place, row in enumerate(frame.filter(frame["protocol"] == protocol).to_dicts(), 1)]
        shown = [row for row in rows if row["rank"] is not None or row["reference"] or row["status"] == "finished"]
        told = [*shared_by(shown), *notes_of(rows)]
        notes = "".join(f'<p class="muted">{escape(note)}</p>' for note in told)
        parts.append(
            f'<p class="muted">Protocol {escape(protocol or "none")}</p>{table.board(shown, number, material.board.uri)}{notes}'
        )
    return f"<section><h2>Leaderboard</h2>{''.join(parts) or '<p>No rows.</p>'}</section>"


def _plates(material: Material, plates: list[Plate], drawings: dict[str, str]) -> str:
    found = []
    for plate in plates:
        drawing = inline(drawings[plate.name], plate.name, plate.title, described(plate.name, material))
        wide = plate.name in WIDE
        frame = (
            f'<div class="panorama" tabindex="0" role="region" aria-label="{escape(plate.title)}">{drawing}</div>'
            if wide
            else drawing
        )
        found.append(
            f"<section{' class=wide' if wide else ''}><h2>{escape(plate.title)}</h2><figure>{frame}"
            f"<figcaption>{escape(plate.caption)}</figcaption></figure></section>"
        )
    return f'<div class="plates">{"".join(found)}</div>' if found else ""


def _gallery(material: Material) -> str:
    if not material.gallery:
        return ""
    queries = "".join(_query(shown, number) for number, shown in enumerate(material.gallery, 1))
    told = (
        "Test queries that the best student gets wrong, its first neighbours beside the teacher's; a green double frame is right."
    )
    return f'<section><h2>Hard queries</h2><p class="muted">{told}</p><div class="queries">{queries}</div></section>'


def _query(shown: Retrieved, number: int) -> str:
    strips = ""
    for network, neighbours in shown.columns:
        items = "".join(_neighbour(*neighbour) for neighbour in neighbours)
        strips += f'<div><p class="muted">{escape(network)}</p><ol class="strip">{items}</ol></div>'
    name = escape(shown.name)
    picture = f'<img src="{escape(shown.query)}" alt="query {number}: {name}">'
    return f'<div class="query"><div class="asked">{picture}<h3>{name}</h3></div><div class="pair">{strips}</div></div>'


def _neighbour(picture: str, name: str, right: bool) -> str:
    told = "right" if right else "wrong"
    image = f'<img src="{escape(picture)}" alt="{escape(name)}, {told}">'
    return f'<li class="{told}">{image}<span aria-hidden="true">{"✓" if right else "✗"}</span></li>'


def _failures(material: Material) -> str:
    return f"<section><h2>What failed</h2>{table.failures(material.failures)}</section>"


def drawings_of(plates: list[Plate]) -> dict[str, str]:
    """Every figure as SVG, by name."""
    return {plate.name: svg(plate.figure, plate.name) for plate in plates}

"""The leaderboard as an HTML table that sorts and filters, and the list of what failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from html import escape
from typing import Any

from tracking.cells import COLUMNS, UNITS
from tracking.places import is_http

Row = dict[str, Any]
Value = Callable[[Row], float | None]

FIGURES: dict[str, str] = {
    "rank": "rank",
    "val": "validation",
    "test": "test",
    "over classes": "class_low",
    "published": "published",
    "difference": "difference",
    "gap": "gap_closed",
    "seeds": "seeds",
    "GFLOPs": "gflops",
    "Mparam": "parameters",
    "dim": "dim",
    "px": "resolution",
    "ms": "latency_ms",
    "looks": "test_looks",
}
"""Printed columns that sort as numbers, and the column of the frame that they sort by."""
TEXT = ("id", "configuration")
MAIN = ("rank", "configuration", "val", "test", "gap")
"""What a phone shows until it is asked for all."""
RISING = ("rank", "GFLOPs", "Mparam", "ms", "hours", "looks")
"""Columns that are first sorted upwards: less is better."""


def board(rows: list[Row], number: int, uri: str) -> str:
    """One protocol's table with its tools."""
    cells = [(title, [told(row) for row in rows]) for title, told in COLUMNS if title != "#"]
    kept = [
        (title, texts) for title, texts in cells if any(texts) and not (title in UNITS and len(rows) > 1 and len(set(texts)) == 1)
    ]
    heads = "".join(_head(title) for title, _ in kept) + '<th class="plain text extra" scope="col">run it again</th>'
    body = "".join(_row(row, [(title, texts[place]) for title, texts in kept], uri) for place, row in enumerate(rows))
    methods = "".join(f"<option>{escape(name)}</option>" for name in sorted({str(row["method"]) for row in rows}))
    return f"""<div class="board">
<div class="tools"><label>Filter rows<input type="search" id="filter{number}" autocomplete="off"></label>
<label>Method<select id="method{number}"><option value="">all</option>{methods}</select></label>
<button type="button" class="more" aria-pressed="false">All columns</button><span role="status" class="muted"></span></div>
<div class="scroll" tabindex="0" role="region" aria-label="Leaderboard {number}"><table class="narrow-hidden">
<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>"""


def _head(title: str) -> str:
    kind = " ".join(filter(None, ("text" * (title in TEXT), "extra" * (title not in MAIN))))
    first = "ascending" if title in RISING or title in TEXT else "descending"
    start = ' aria-sort="ascending"' if title == "rank" else ""
    return f'<th scope="col" class="{kind}" data-first="{first}"{start}><button type="button">{escape(title)}</button></th>'


def _row(row: Row, cells: list[tuple[str, str]], uri: str) -> str:
    kind = "first" if row["rank"] == 1 else "reference" if row["rank"] is None else ""
    inside = "".join(_cell(row, title, text, uri) for title, text in cells)
    command = f'<td class="text extra"><code>{escape(row["reproduce"] or "")}</code></td>'
    return f'<tr class="{kind}" data-method="{escape(str(row["method"]))}">{inside}{command}</tr>'


def _cell(row: Row, title: str, text: str, uri: str) -> str:
    kind = " ".join(filter(None, ("text" * (title in TEXT), "long" * (title == "configuration"), "extra" * (title not in MAIN))))
    sort = f' data-value="{_number(_sorted_by(row, title))}"' if title not in TEXT else ""
    return f'<td class="{kind}"{sort}>{_linked(row, text, uri) if title == "id" else escape(text)}</td>'


def _sorted_by(row: Row, title: str) -> float | None:
    if title == "hours":
        return float(row["gpu_hours"] or row["cpu_hours"] or 0.0)
    return row.get(FIGURES.get(title, ""))


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.12g}"


def _linked(row: Row, text: str, uri: str) -> str:
    """The row's id; on a tracking server a link to the run that stands for it."""
    if not is_http(uri):
        return f'<span title="runs:/{escape(row["run_id"])}">{escape(text)}</span>'
    place = f"{uri.rstrip('/')}/#/experiments/{row['experiment_id']}/runs/{row['run_id']}"
    return f'<a href="{escape(place)}">{escape(text)}</a>'


def failures(rows: list[Row]) -> str:
    """What failed or was stopped, the same reasons together."""
    if not rows:
        return "<p>Every run ended as planned.</p>"
    counts = Counter((row["status"], row["reason"] or "no reason was stored") for row in rows)
    names = {
        key: [row["name"] or row["run_id"] for row in rows if (row["status"], row["reason"] or "no reason was stored") == key]
        for key in counts
    }
    lines = "".join(
        f'<tr><td>{count}</td><td class="text">{escape(status)}</td><td class="long">{escape(reason)}</td>'
        f'<td class="long">{escape(", ".join(names[status, reason][:4]))}{" ..." if count > 4 else ""}</td></tr>'
        for (status, reason), count in counts.most_common()
    )
    heads = "".join(
        f'<th class="plain{kind}" scope="col">{title}</th>'
        for title, kind in (("runs", ""), ("end", " text"), ("reason", " text"), ("which", " text"))
    )
    region = '<div class="scroll" tabindex="0" role="region" aria-label="Failures">'
    return f"{region}<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"

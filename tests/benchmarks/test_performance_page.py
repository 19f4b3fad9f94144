"""docs/performance.md says what benchmarks/results.json holds: every ratio of its tables, and every spread, is that of a row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = json.loads((ROOT / "benchmarks/results.json").read_text(encoding="utf-8"))
HEADS = ("ratio (pairs)", "over the plain step", "over the plain epoch")
"""How the titles begin of columns whose cells are ratios, as `0.133 (0.126 to 0.141)`, `1/23`, or a share on
top, as `+17.4 % (17 to 18)`."""


def cells() -> Iterator[str]:
    columns: list[int] = []
    for line in (ROOT / "docs/performance.md").read_text(encoding="utf-8").splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = [place for place, title in enumerate(parts) if title.startswith(HEADS)] or [-1]
        elif columns[0] >= 0 and not parts[0].startswith("--"):
            yield from (parts[column] for column in columns)


def says(text: str, value: float, cell: str) -> bool:
    """Whether a printed number is this value, to the digits that are printed."""
    if text.startswith("1/"):
        return value > 0 and round(1 / value) == int(text[2:])
    shown = 100 * (value - 1) if "%" in cell else value
    step = 10.0 ** -len(text.partition(".")[2])
    return abs(shown - float(text)) <= 0.5001 * step


def test_every_ratio_on_the_page_is_a_row_of_the_results():
    found = [cell for cell in cells() if re.search(r"\d", cell)]
    assert len(found) > 10
    for cell in found:
        told, _, spread = cell.partition("(")
        ends = re.fullmatch(r"([-+]?[\d.]+) to ([-+]?[\d.]+)\)", spread)
        numbers = re.findall(r"1/\d+|\d+(?:\.\d+)?", told)
        rows = [[row for row in ROWS if row["ratio"] is not None and says(number, row["ratio"], cell)] for number in numbers]
        assert all(rows), f"{cell}: no row of benchmarks/results.json has this ratio"
        if ends:
            pairs = [row["spread"] for matching in rows for row in matching]
            fits = (says(ends[1], low, cell) and says(ends[2], high, cell) for low, high in pairs)
            assert any(fits), f"{cell}: the row has another spread"

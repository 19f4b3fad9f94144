"""From the rows of `make bench` to docs/performance.md: `python -m benchmarks.report`.

The page is written in benchmarks/performance_template.md; in it `{a row's name|field}` stands for what `benchmarks/results.json`
holds of that row, so that no figure of a row is typed; without a name it is the row that was named last. Fields: `ours`, `peer`,
`limit` (medians), `ours an image` and `peer an image` (of 112), `ratio` (with the spread of the pairs; bold where the goal is
reached), `once` (the ratio alone), `more` (as a share on top), `points` (a difference and its interval), `missed` (": missed",
or nothing), `over` (ours over the limit), `over the limit` (as a share on top); or what else a row has, in seconds, or in
megabytes where its name ends in `_mb`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
TEMPLATE = HERE / "performance_template.md"
PAGE = HERE.parent / "docs" / "performance.md"
SOURCES = "{sources}"
"""In the template: which machine and commit the rows are of."""
IMAGES = 112

Row = dict[str, Any]


def digits(value: float, count: int = 3) -> str:
    """A number with three significant digits, never in powers of ten."""
    if not value:
        return "0"
    return f"{value:.{max(count - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def seconds(value: float | None, unit: str = "s") -> str:
    """A time in the unit that leaves no zeros in front: `13.7 s`, `3.63 ms`. Nothing where none was measured."""
    if value is None:
        return ""
    return f"{digits(1000 * value)} ms" if unit == "s" and value < 0.1 else f"{digits(value)} {unit}"


def spread(row: Row, told: Callable[[float], str]) -> str:
    return f"({told(row['spread'][0])} to {told(row['spread'][1])})"


def missed(row: Row) -> bool:
    """Whether the row has a goal and lies above it."""
    return row["goal"] is not None and row["ratio"] > row["goal"]


def ratio(row: Row) -> str:
    told, count = digits(row["ratio"]), 3
    while missed(row) and float(told) <= row["goal"]:  # missed by less than three digits show
        count += 1
        told = digits(row["ratio"], count)
    return f"{told if row['goal'] is None or missed(row) else f'**{told}**'} {spread(row, digits)}"


def more(row: Row) -> str:
    """The ratio as a share on top, `+9.2 % (6 to 10)`."""
    return f"{100 * (row['ratio'] - 1):+.1f} % {spread(row, lambda value: f'{100 * (value - 1):.0f}')}"


FIELDS: dict[str, Callable[[Row], str]] = {
    "ours": lambda row: seconds(row["ours"], row["unit"]),
    "ours an image": lambda row: seconds(row["ours"] / IMAGES),
    "peer": lambda row: seconds(row["peer"], row["unit"]),
    "peer an image": lambda row: seconds(row["peer"] / IMAGES),
    "limit": lambda row: seconds(row["limit"], row["unit"]),
    "ratio": ratio,
    "once": lambda row: digits(row["ratio"]),
    "more": more,
    "missed": lambda row: ": missed" if missed(row) else "",
    "over": lambda row: f"{row['ours'] / row['limit']:.2f} x",
    "over the limit": lambda row: f"{100 * (row['ours'] / row['limit'] - 1):+.1f} %",
    "points": lambda row: f"{row['ours']:+.2f} {spread(row, lambda value: f'{value:+.2f}')}",
}


def page(rows: Sequence[Row], template: str) -> str:
    """The template with every figure filled in. Raises `ValueError` for a row or a field that is not there."""
    named, last = {row["name"]: row for row in rows}, ""

    def filled(found: re.Match[str]) -> str:
        nonlocal last
        name = last = found[1] or last
        field = found[2]
        for kind, text, known in (("row", name, list(named)), ("field", field, [*FIELDS, *named.get(name, {})])):
            if text not in known:
                near = difflib.get_close_matches(text, known, 1) or known
                raise ValueError(f"{found[0]}: no {kind} {text!r} in the results; did you mean {near[0]!r}?")
        if named[name]["ours"] is None:
            raise ValueError(f"{found[0]}: {named[name]['note']}")
        if field in FIELDS:
            return FIELDS[field](named[name])
        value = named[name][field]
        return f"{value:,.0f} MB" if field.endswith("_mb") else seconds(value)

    return re.sub(r"\{([^{}|\n]*)\|([a-z_ ]+)\}", filled, template.replace(SOURCES, sources(rows)))


def sources(rows: Sequence[Row]) -> str:
    """Machines and commits of the rows that were measured, those with the most rows first."""
    counts = Counter((row["machine"].split(" (")[0], row["commit"]) for row in rows if row["ours"] is not None)
    told = [f"{count} rows on {machine} at {commit[:7]}" for (machine, commit), count in counts.most_common()]
    return "; ".join(told)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--results", type=Path, default=RESULTS)
    asked.add_argument("--out", type=Path, default=PAGE)
    options = asked.parse_args()
    rows = json.loads(options.results.read_text(encoding="utf-8"))
    options.out.write_text(page(rows, TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""A leaderboard as text: a table for the terminal (120 columns at most), Markdown, CSV, JSON; or as Parquet. Pure."""

from __future__ import annotations

import io
import json
import math
import textwrap
from typing import TYPE_CHECKING, Any

from tracking.budgets import unequal
from tracking.cells import COLUMNS, UNITS, Row, spent
from tracking.errors import TrackingError

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("table", "md", "csv", "json", "parquet")
TEXTS = ("csv", "json")
"""Formats for programs that are text."""
WIDTH = 120
Column = tuple[str, list[str]]
SPARED = ("Mparam", "dim", "looks", "hours", "difference")
"""Columns that a terminal's table gives up, in this order, where a configuration would be cut to less than `READABLE` letters."""
READABLE = 34


def render(frame: pl.DataFrame, format: str = "table") -> str:
    """A frame of `leaderboard` as text. Table and Markdown show a table per protocol, scores in percent, "mean ± half of the
    95 % interval over seeds" and the ends over classes; CSV and JSON hold every row and column, scores as logged.

    Raises `TrackingError` for an unknown format.
    """
    if format == "csv":
        return _csv(frame)
    if format == "json":
        return json.dumps([json_row(row) for row in frame.to_dicts()], indent=1, ensure_ascii=False)
    if format not in FORMATS or format == "parquet":
        raise TrackingError(f"format {format!r}: wanted one of {', '.join(FORMATS)}; parquet is written to a file")
    if not frame.height:
        return "No configuration has finished yet."
    frame = frame.with_row_index("place", 1)
    protocols = frame["protocol"].unique(maintain_order=True)
    return "\n\n".join(_board(frame.filter(frame["protocol"] == protocol).to_dicts(), format) for protocol in protocols)


def parquet(frame: pl.DataFrame) -> bytes:
    """The frame as a Parquet file, every row and column."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def json_row(row: Row) -> Row:
    """A row for programs: `select` and `report` are the scores, `interval` is the 95 % one over seeds (null: one seed).

    `run_ids`: of the runs that are reported, else of those that chose the row; `select_by`, `report_by` name the metrics.
    """
    named = {"select": row["validation"], "report_by": row["report"], "interval": [row["test_low"], row["test_high"]]}
    named |= {"class_interval": [row["class_low"], row["class_high"]], "run_ids": row["final_runs"] or row["search_runs"]}
    told = {key: _plain(value) for key, value in (row | named | {"report": row["test"]}).items()}
    for key in ("interval", "class_interval"):
        told[key] = None if any(_plain(end) is None for end in told[key]) else told[key]
    return told


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(frame: pl.DataFrame) -> str:
    import polars as pl

    buffer = io.BytesIO()
    frame.with_columns(pl.col("search_runs", "final_runs").list.join(";")).write_csv(buffer)
    return buffer.getvalue().decode()


def _board(rows: list[Row], format: str) -> str:
    shown = [row for row in rows if row["rank"] is not None or row["reference"] or row["status"] == "finished"]
    columns = [(title, [cell(row) for row in shown]) for title, cell in COLUMNS]
    same = [title for title, cells in columns if title in UNITS and len(set(cells)) == 1 and len(cells) > 1 and cells[0]]
    columns = [(title, cells) for title, cells in columns if any(cells) and title not in same]
    columns, left_out = _fitting(columns) if format == "table" else (columns, [])
    notes = shared_by(shown) + notes_of(rows)
    notes += [f"no room for {', '.join(left_out)}: --format md shows all"] if left_out else []
    parts = [
        _heading(rows[0], any(row["validation"] is not None for row in rows)),
        (_markdown if format == "md" else _table)(columns),
        *notes,
    ]
    return ("\n\n" if format == "md" else "\n").join(part for part in parts if part)


def shared_by(rows: list[Row]) -> list[str]:
    """What all rows have in common of the columns in `UNITS`, as a sentence."""
    told = {title: {cell(row) for row in rows} for title, cell in COLUMNS if title in UNITS}
    common = [
        f"{values.pop()} {UNITS[title]}" for title, values in told.items() if len(values) == 1 and len(rows) > 1 and any(values)
    ]
    return [f"every row: {', '.join(common)}"] if common else []


def _heading(row: Row, chosen: bool) -> str:
    protocol = f", protocol {row['protocol']}" if row["protocol"] else ""
    if not chosen:
        return f"Reported {row['report']} ({row['role']}), nothing chosen by a score of these runs{protocol}"
    return f"Chosen by {row['select_by']}, reported {row['report']} ({row['role']}){protocol}"


def notes_of(rows: list[Row]) -> list[str]:
    """What has to be said below a table of these rows, line by line."""
    notes = []
    if any(row["test_low"] is not None and math.isfinite(row["test_low"]) for row in rows):
        notes.append("± half of the 95 % interval of the mean over seeds; [ ] 95 % interval over the test classes")
    if any(row["rank"] == 1 and row["p_leader"] is not None for row in rows):
        notes.append("rank 1 is shared where a paired test over classes finds no difference from the first row (5 %, Holm)")
    if counts := unequal(rows):
        told = ", ".join(f"{method} {count}" for method, count in sorted(counts.items(), key=lambda pair: -pair[1]))
        notes.append(f"search budgets differ, trials a method: {told}")
    notes += _searched(rows)
    left = [row["status"] for row in rows if row["rank"] is None and not row["reference"] and row["status"] != "finished"]
    if left:
        notes.append("not ranked: " + ", ".join(f"{left.count(status)} {status}" for status in sorted(set(left))))
    notes = ["; ".join(notes)] if notes and len("; ".join(notes)) <= WIDTH else notes
    return [line for note in notes + _published_notes(rows) for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")]


def _searched(rows: list[Row]) -> list[str]:
    """What the searches behind these rows took, where it is known and they all belong to the same ones."""
    known = {(row["search_gpu_hours"], row["search_cpu_hours"]) for row in rows if row["search_gpu_hours"] is not None}
    return [f"its search took {told}" for told in map(spent, known) if told] if len(known) == 1 else []


def _table(columns: list[tuple[str, list[str]]]) -> str:
    widths = [max(len(title), *map(len, cells)) for title, cells in columns]
    spare = WIDTH - sum(widths) - 2 * (len(widths) - 1)
    if spare < 0:
        place = [title for title, _ in columns].index("configuration")
        widths[place] = max(13, widths[place] + spare)
    lines = [
        [title for title, _ in columns],
        ["─" * width for width in widths],
        *zip(*(cells for _, cells in columns), strict=True),
    ]
    return "\n".join(
        "  ".join(_fitted(text, width, title) for text, width, (title, _) in zip(line, widths, columns, strict=True)).rstrip()
        for line in lines
    )


def _fitting(columns: list[Column]) -> tuple[list[Column], list[str]]:
    """The columns that leave room enough for the configuration, and the titles of those given up for it."""
    left_out: list[str] = []
    while (excess := _excess(columns)) > 0 and (spare := [title for title, _ in columns if title in SPARED]):
        longest = max(len(cell) for title, cells in columns if title == "configuration" for cell in cells)
        if longest - excess >= min(longest, READABLE):
            break
        left_out.append(min(spare, key=SPARED.index))
        columns = [column for column in columns if column[0] != left_out[-1]]
    return columns, left_out


def _excess(columns: list[Column]) -> int:
    """By how much the table is too wide."""
    return sum(max(len(title), *map(len, cells)) + 2 for title, cells in columns) - 2 - WIDTH


def _fitted(text: str, width: int, title: str) -> str:
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.ljust(width) if title in ("id", "configuration", "test", "over classes") else text.rjust(width)


def _markdown(columns: list[tuple[str, list[str]]]) -> str:
    lines = [[title for title, _ in columns], ["---"] * len(columns), *zip(*(cells for _, cells in columns), strict=True)]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _published_notes(rows: list[Row]) -> list[str]:
    """How the printed numbers and these were chosen, and why some of them may not be compared; nothing where none is printed."""
    printed = [row for row in rows if row["published"] is not None]
    notes = [f"published: {rule}" for rule in dict.fromkeys(row["published_rule"] for row in printed) if rule]
    notes += [f"here: {rule}" for rule in dict.fromkeys(row["rule"] for row in printed) if rule]
    reasons = list(dict.fromkeys(row["not_comparable"] for row in printed if row["not_comparable"]))
    notes += [f"not comparable ( ): {reason}" for reason in reasons[:3]] + ["..."] * (len(reasons) > 3)
    return notes

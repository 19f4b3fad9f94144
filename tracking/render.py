"""A leaderboard as text: a table for the terminal (120 columns at most), Markdown, CSV, JSON; or as Parquet. Pure."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tracking.budgets import unequal
from tracking.errors import TrackingError

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("table", "md", "csv", "json", "parquet")
TEXTS = ("csv", "json")
"""Formats for programs that are text."""
WIDTH = 120
Row = dict[str, Any]


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
    notes = shared_by(shown) + notes_of(rows)
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
    spent = {(row["search_gpu_hours"], row["search_cpu_hours"]) for row in rows if row["search_gpu_hours"] is not None}
    return [f"its search took {told}" for told in map(_spent, spent) if told] if len(spent) == 1 else []


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


def _fitted(text: str, width: int, title: str) -> str:
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.ljust(width) if title in ("id", "configuration", "test", "over classes") else text.rjust(width)


def _markdown(columns: list[tuple[str, list[str]]]) -> str:
    lines = [[title for title, _ in columns], ["---"] * len(columns), *zip(*(cells for _, cells in columns), strict=True)]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _score(value: float | None, metric: str) -> str:
    if value is None:
        return ""
    share = not metric.startswith(("cost/", "model/")) and not metric.endswith(("loss", "density", "decay"))
    return f"{100 * value:.1f}" if share else f"{value:.4g}"


def _test(row: Row) -> str:
    mean, low, high = row["test"], row["test_low"], row["test_high"]
    if mean is None or low is None or not math.isfinite(low):
        return _score(mean, row["report"])
    return f"{_score(mean, row['report'])} ± {_score((high - low) / 2, row['report'])}"


def _classes(row: Row) -> str:
    low, high = row["class_low"], row["class_high"]
    return "" if low is None or not math.isfinite(low) else f"[{_score(low, row['report'])}, {_score(high, row['report'])}]"


def _difference(row: Row) -> str:
    """Measured less printed, in brackets where the two are not comparable."""
    if row["difference"] is None:
        return ""
    text = _score(abs(row["difference"]), row["report"])
    signed = ("-" if row["difference"] < 0 else "+") + text
    return f"({signed})" if row["not_comparable"] else signed


def _published_notes(rows: list[Row]) -> list[str]:
    """How the printed numbers and these were chosen, and why some of them may not be compared; nothing where none is printed."""
    printed = [row for row in rows if row["published"] is not None]
    notes = [f"published: {rule}" for rule in dict.fromkeys(row["published_rule"] for row in printed) if rule]
    notes += [f"here: {rule}" for rule in dict.fromkeys(row["rule"] for row in printed) if rule]
    reasons = list(dict.fromkeys(row["not_comparable"] for row in printed if row["not_comparable"]))
    notes += [f"not comparable ( ): {reason}" for reason in reasons[:3]] + ["..."] * (len(reasons) > 3)
    return notes


def _spent(hours: tuple[float | None, float | None], unit: str = " hours") -> str:
    """Hours of GPUs, or of CPUs where no GPU was at work; empty where none are known."""
    gpu, cpu = hours
    kind, spent = ("GPU", gpu) if gpu else ("CPU", cpu)
    return f"{spent:.2g} {kind}{unit}" if spent else ""


def _gap(row: Row) -> str:
    """Percent of the teacher gap; the rows that define it say nothing."""
    return (
        "" if row["gap_closed"] is None or row["reference"] in ("teacher", "undistilled") else f"{100 * row['gap_closed']:.0f} %"
    )


def _pixels(row: Row) -> str:
    """Query resolution, and that of the gallery where another network embeds it at another one."""
    query, gallery = (row[name] for name in ("resolution", "gallery_resolution"))
    return "" if query is None else f"{query:.0f}" if gallery in (None, query) else f"{query:.0f}/{gallery:.0f}"


def _figure(name: str, unit: float = 1) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else f"{row[name] / unit:.3g}"


COLUMNS: list[tuple[str, Callable[[Row], str]]] = [
    ("#", lambda row: str(row["place"])),
    ("rank", lambda row: "" if row["rank"] is None else str(row["rank"])),
    ("id", lambda row: row["id"]),
    ("configuration", lambda row: row["label"] if row["group"] is None else f"{row['group']}: {row['label']}"),
    ("val", lambda row: _score(row["validation"], row["select_by"])),
    ("test", _test),
    ("over classes", _classes),
    ("published", lambda row: "" if row["published"] is None else _score(row["published"], row["report"])),
    ("difference", _difference),
    ("gap", _gap),
    ("seeds", lambda row: str(row["seeds"] or "")),
    ("GFLOPs", _figure("gflops")),
    ("Mparam", _figure("parameters", 1e6)),
    ("dim", lambda row: "" if row["dim"] is None else f"{row['dim']:.0f}"),
    ("px", _pixels),
    ("ms", _figure("latency_ms")),
    ("hours", lambda row: _spent((row["gpu_hours"], row["cpu_hours"]), "")),
    ("looks", lambda row: str(row["test_looks"] or "")),
]
"""Titles of the printed columns, and what stands in them; a column that is empty in every row is left out."""
UNITS = {
    "GFLOPs": "GFLOPs",
    "Mparam": "million parameters",
    "dim": "dimensions",
    "px": "px",
    "ms": "ms a query",
    "looks": "test look a seed",
}
"""Columns that are told once below the table where all rows agree, and how."""

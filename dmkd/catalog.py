"""What `dmkd methods`, `dmkd datasets` and `dmkd prepare` show, as plain values."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

from dmkd.space import flatten, search_space


def method_rows(only: str = "") -> list[dict[str, Any]]:
    """Every method, then every preset (or `only` one): name, paper, teacher, gallery, parameters with default and range."""
    from dmkd.distill import METHODS, PRESETS
    from dmkd.distill.descriptions import describe
    from dmkd.handbook import find_method, range_text

    rows = []
    for name in [only] if only else [*METHODS, *PRESETS]:
        method = find_method(name)
        ranges = {key: range_text(searched) for key, searched in search_space(method).items()}
        parameters = {key: {"default": value, "range": ranges.get(key)} for key, value in flatten(method).items()}
        facts = {
            "name": name,
            "preset_of": method.name if name not in METHODS else None,
            "paper": method.paper,
            "teacher": method.teacher,
            "gallery": method.gallery,
            "summary": describe(method.name).title,
        }
        rows.append(facts | {"parameters": parameters})
    return rows


def method_lines() -> list[str]:
    """A line for each method, its presets under it."""
    from dmkd.distill import METHODS, PRESETS

    lines = []
    for row in (method_rows(name)[0] for name in METHODS):
        facts = f"paper {row['paper'] or '-'}, teacher {row['teacher']}, gallery {row['gallery']}"
        lines.append(f"{row['name']:16s} {row['summary']}  ({facts})")
        presets = [name for name, preset in PRESETS.items() if preset.name == row["name"] and name not in METHODS]
        lines += (
            textwrap.wrap(f"presets: {', '.join(presets)}", 120, initial_indent=" " * 17, subsequent_indent=" " * 26)
            if presets
            else []
        )
    return [*lines, "", "`dmkd methods NAME` shows one in full, `dmkd published` the rows of the papers' tables."]


def dataset_rows() -> list[dict[str, Any]]:
    """Every data set: name, summary, layout, where to get it, licence, known counts (of training classes and queries too)."""
    from dmkd.data.datasets import DATASETS

    shown = ("name", "summary", "layout", "source", "licence", "classes", "images", "train_images", "query_images")
    return [{key: getattr(info, key) for key in shown} for info in DATASETS.values()]


def dataset_lines() -> list[str]:
    """The same for a terminal."""
    lines = []
    for row in dataset_rows():
        known = (
            ("classes", "classes"),
            ("images", "pictures"),
            ("train_images", "of them in training"),
            ("query_images", "queries"),
        )
        counts = ", ".join(f"{row[key]} {what}" for key, what in known if row[key])
        lines += [
            f"{row['name']}: {row['summary']}" + (f" ({counts})" if counts else ""),
            *(f"    {key}: {row[key]}" for key in ("layout", "source", "licence")),
        ]
    return lines


def prepare_report(name: str, root: str) -> tuple[dict[str, Any], list[str]]:
    """Check a data set's folder; the report as plain values and as lines."""
    from dmkd.data.prepare import check

    report = check(name, str(Path(root).expanduser()) if root else "")
    return dataclasses.asdict(report) | {"ok": report.ok}, report.lines()

"""What `dmkd methods`, `dmkd datasets` and `dmkd prepare` show, as plain values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dmkd.space import Choice, Range, flatten, search_space


def method_rows() -> list[dict[str, Any]]:
    """Every method, then every preset: name, paper, teacher, gallery, parameters with default and range."""
    from dmkd.distill import METHODS, PRESETS

    rows = []
    for name, method in [*((name, cls()) for name, cls in METHODS.items()), *PRESETS.items()]:
        ranges = {key: _range(searched) for key, searched in search_space(method).items()}
        parameters = {key: {"default": value, "range": ranges.get(key)} for key, value in flatten(method).items()}
        preset_of = method.name if name not in METHODS else None
        facts = {
            "name": name,
            "preset_of": preset_of,
            "paper": method.paper,
            "teacher": method.teacher,
            "gallery": method.gallery,
        }
        rows.append(facts | {"summary": (type(method).__doc__ or "").strip().split("\n")[0], "parameters": parameters})
    return rows


def method_lines() -> list[str]:
    """The same for a terminal."""
    lines = []
    for row in method_rows():
        lines.append(f"{row['name']}  (paper: {row['paper'] or '-'}, teacher: {row['teacher']}, gallery: {row['gallery']})")
        for key, field in row["parameters"].items():
            searched = f"   searched {field['range']}" if field["range"] else ""
            lines.append(f"    {key} = {field['default']}{searched}")
    return lines


def _range(searched: Range | Choice) -> str:
    where = f" where {searched.when[0]} is {searched.when[1]}" if searched.when else ""
    if isinstance(searched, Choice):
        return f"one of {list(searched.options)}{where}"
    return f"[{searched.low:g}, {searched.high:g}]{' log' if searched.log else ''}{where}"


def dataset_rows() -> list[dict[str, Any]]:
    """Every data set: name, summary, layout, where to get it, licence, known counts."""
    from dmkd.data.datasets import DATASETS

    shown = ("name", "summary", "layout", "source", "licence", "classes", "images")
    return [{key: getattr(info, key) for key in shown} for info in DATASETS.values()]


def dataset_lines() -> list[str]:
    """The same for a terminal."""
    lines = []
    for row in dataset_rows():
        counts = f" ({row['classes']} classes, {row['images']} pictures)" if row["classes"] else ""
        lines += [
            f"{row['name']}: {row['summary']}{counts}",
            *(f"    {key}: {row[key]}" for key in ("layout", "source", "licence")),
        ]
    return lines


def prepare_report(name: str, root: str) -> tuple[dict[str, Any], list[str]]:
    """Check a data set's folder; the report as plain values and as lines."""
    from dmkd.data.prepare import check

    report = check(name, str(Path(root).expanduser()) if root else "")
    return dataclasses.asdict(report) | {"ok": report.ok}, report.lines()

"""`dmkd methods`: a line each, one method in full, or every value as JSON."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from dmkd.commands import Add

if TYPE_CHECKING:
    from dmkd.handbook import PublishedRow


def add(command: Add) -> None:
    """The parser."""
    methods_ = command("methods", methods, "every method, a line each; one method or preset in full, with the rows it gives")
    methods_.add_argument("name", nargs="?", default="", metavar="NAME", help="a method or a preset")
    methods_.add_argument("--json", action="store_true", help="every method and preset: hyper-parameters, default, range")


def methods(options: argparse.Namespace) -> None:
    """Print what was asked for."""
    if options.name and not options.json:
        from dmkd.handbook import section

        print(section(options.name, published_rows()))
        return
    from dmkd.catalog import method_lines, method_rows

    print(json.dumps(method_rows(options.name), indent=2) if options.json else "\n".join(method_lines()))


def published_rows() -> list[PublishedRow] | None:
    """Rows of the five papers that a method gives; None where polars, which reads their table, is not installed."""
    try:
        from tracking.published import configurations
    except ModuleNotFoundError:
        return None
    from dmkd.handbook import PublishedRow
    from sweeps.papers import recipes

    made = recipes()
    rows = []
    for row in configurations().iter_rows(named=True):
        config = made[row["key"]].config
        if config is not None:
            about = {name: row[name] for name in ("key", "paper", "table", "dataset")}
            rows.append(PublishedRow(**about, published=row["method"], numbers=row["cells"], method=config.method))
    return rows

"""`dmkd datasets`, `dmkd networks`, `dmkd prepare`."""

from __future__ import annotations

import argparse
import json
import sys

from dmkd.commands import Add, methods, networks


def add(command: Add) -> None:
    """The parsers."""
    methods.add(command)
    command("datasets", datasets, "every data set and its expected layout").add_argument("--json", action="store_true")
    networks.add(command)
    prepare_ = command("prepare", prepare, "check a data set's folder: what was found, what is missing, what is broken")
    prepare_.add_argument("name", metavar="NAME")
    prepare_.add_argument("--root", default="", help="its folder; default: $DMKD_DATA/NAME")
    prepare_.add_argument("--json", action="store_true")


def datasets(options: argparse.Namespace) -> None:
    """Print every data set."""
    from dmkd.catalog import dataset_lines, dataset_rows

    print(json.dumps(dataset_rows(), indent=2) if options.json else "\n".join(dataset_lines()))


def prepare(options: argparse.Namespace) -> None:
    """Check a data set's folder."""
    from dmkd.catalog import prepare_report

    report, lines = prepare_report(options.name, options.root)
    print(json.dumps(report, indent=2, default=str) if options.json else "\n".join(lines))
    if not report["ok"]:
        sys.exit(1)

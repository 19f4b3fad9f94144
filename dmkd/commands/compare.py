"""`dmkd compare`: is this row better than that one, and where?"""

from __future__ import annotations

import argparse
import json

from dmkd.commands import Add
from dmkd.commands.places import tracked


def add(command: Add) -> None:
    """The parser."""
    compare_ = command("compare", compare, "two rows on the same test queries: difference with interval, classes, queries")
    for name in ("a", "b"):
        compare_.add_argument(
            name, metavar=name.upper(), help="a leaderboard row: its id, its number, or runs:/ID of one of its runs"
        )
    compare_.add_argument("--experiment", default=None, metavar="E", help="where a row's id stands in several experiments")
    compare_.add_argument("--metric", default=None, metavar="test/M", help="recall_at_K, map or mean_average_precision_at_r")
    compare_.add_argument("--json", action="store_true", help="everything: each class, each query")
    tracked(compare_)


def compare(options: argparse.Namespace) -> None:
    """Print the comparison."""
    from tracking.compare import as_json, as_text
    from tracking.compare import compare as held

    found = held(options.a, options.b, options.tracking_uri, experiment=options.experiment, metric=options.metric)
    print(json.dumps(as_json(found), indent=1) if options.json else as_text(found))

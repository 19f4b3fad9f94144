"""`dmkd leaderboard`, `sync`: what the tracker holds."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dmkd.commands import Add
from dmkd.commands.places import tracked


def add(command: Add) -> None:
    """The parsers."""
    board = command("leaderboard", leaderboard, "the ranking of configurations, over their seeds, from the tracker")
    asking(board)
    board.add_argument("--top", type=int, default=0, metavar="N", help="only the first N rows of each table, and the references")
    board.add_argument("--format", choices=("table", "md", "csv", "json", "parquet"), default="table")
    board.add_argument("--out", default=None, metavar="FILE", help="write it there (needed for parquet)")
    board.add_argument("--fresh", action="store_true", help="read every run again, whatever is kept from the last reading")
    tracked(board)
    sync_ = command("sync", sync, "send what was spooled while the tracking server was away")
    sync_.add_argument("--spool", default="", metavar="DIR", help="where runs were spooled (default: this user's spool folder)")


def asking(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that say which board is meant."""
    add = parser.add_argument
    add("--experiment", default=None, metavar="E", help="default: the one with the newest run")
    add("--select", default=None, metavar="val/M", help="rank by this (default: what the sweep was chosen by)")
    add("--report", default=None, metavar="test/M", help="report this (default: the selection's name on test)")
    add("--group-by", default="configuration", metavar="KEY", help="best row of each method, backbone, resolution, or any param")
    add(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only rows that fulfil it, as in 'method=yu/*', 'student.resolution<=64', 'seeds>=3' (repeatable)",
    )


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """Those options as `tracking.show` takes them."""
    return {"select_by": options.select, "report": options.report, "group_by": options.group_by, "where": options.where}


def leaderboard(options: argparse.Namespace) -> None:
    """Print the ranking. What dead processes left RUNNING is closed first."""
    from sweeps.reaping import told_reaped
    from tracking.show import show

    told_reaped(options.tracking_uri, options.experiment)
    how = {"form": options.format, "top": options.top, "out": options.out, "fresh": options.fresh}
    print(show(options.tracking_uri, options.experiment, **how, **asked(options)))


def sync(options: argparse.Namespace) -> None:
    """Deliver the spool; trials of dead drivers wait for `--resume`."""
    from sweeps.reaping import settle_study
    from tracking.places import known_spools
    from tracking.runs import sync as deliver

    done = deliver(options.spool or None)
    for root in known_spools():
        if (root.parent / "study.journal").is_file():
            settle_study(root.parent)
    print(f"{done.delivered} runs delivered to the tracking server")
    if done.waiting:
        print("\n".join(done.waiting), file=sys.stderr)
        sys.exit(1)

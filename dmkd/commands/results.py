"""`dmkd leaderboard`, `sync`: what the tracker holds."""

from __future__ import annotations

import argparse
import sys

from dmkd.commands import Add
from dmkd.commands.places import tracked


def add(command: Add) -> None:
    """The parsers."""
    board = command("leaderboard", leaderboard, "the ranking of configurations, over their seeds, from the tracker")
    board.add_argument("--experiment", default=None, metavar="E", help="default: the one with the newest run")
    board.add_argument("--select", default=None, metavar="val/M", help="rank by this (default: val/recall_at_1)")
    board.add_argument("--report", default=None, metavar="test/M", help="report this (default: the selection's name on test)")
    board.add_argument("--group-by", default="configuration", metavar="KEY")
    board.add_argument("--format", choices=("table", "md", "csv", "json"), default="table")
    tracked(board)
    sync_ = command("sync", sync, "send what was spooled while the tracking server was away")
    sync_.add_argument("--spool", default="", metavar="DIR", help="where runs were spooled (default: this user's spool folder)")


def leaderboard(options: argparse.Namespace) -> None:
    """Print the ranking. What dead processes left RUNNING is closed first."""
    from sweeps.reaping import told_reaped
    from tracking.show import show

    told_reaped(options.tracking_uri, options.experiment)
    asked = {"select_by": options.select, "report": options.report, "group_by": options.group_by, "form": options.format}
    print(show(options.tracking_uri, options.experiment, **asked))


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

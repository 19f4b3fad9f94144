"""`dmkd report`: the leaderboard, the figures and the hard queries of an experiment, on one page that needs no network."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from dmkd.commands import Add
from dmkd.commands.places import tracked
from dmkd.commands.results import asked, asking

if TYPE_CHECKING:
    from tracking.report.material import Retrieved
    from tracking.show import Board


def add(command: Add) -> None:
    """The parser."""
    report_ = command(
        "report", report, "one HTML page with leaderboard, figures and hard queries, and the figures as SVG and PNG"
    )
    report_.add_argument("--out", default="dmkd-output/report", metavar="DIR", help="default: %(default)s")
    asking(report_)
    report_.add_argument("--data-root", default="", metavar="DIR", help="where the pictures are, for the hard queries")
    report_.add_argument("--no-pictures", action="store_true", help="leave the hard queries out: no checkpoint is loaded")
    report_.add_argument("--log", action="store_true", help="put it on the sweep's parent run in MLflow too")
    tracked(report_)


def report(options: argparse.Namespace) -> None:
    """Write the report."""
    from sweeps.importance import with_importances
    from tracking.report.write import write_report
    from tracking.show import find_board

    board = find_board(options.tracking_uri, options.experiment, **asked(options))
    pictures, notes = ([], ["Hard queries were left out."]) if options.no_pictures else _pictures(board, options.data_root)
    material = with_importances(board, gallery=pictures, notes=notes)
    written = write_report(material, options.out)
    if options.log:
        from tracking.report.logged import log_report

        print(f"logged to run {log_report(material)}")
    print(f"{written.page}: open it in a browser; {len(written.figures)} figure files beside it")


def _pictures(board: Board, root: str) -> tuple[list[Retrieved], list[str]]:
    """The hard queries of the first row that was tested; what kept them from being shown is no reason to fail."""
    from dmkd.commands.hard_queries import hard_queries
    from dmkd.errors import DmkdError
    from tracking.errors import TrackingError

    rows = board.frame.to_dicts()
    tested = [row for row in rows if row["rank"] is not None and row["final_runs"]]
    if not tested:
        return [], ["No hard queries: no row has been evaluated on test classes yet."]
    teachers = [row for row in rows if row["reference"] == "teacher" and row["final_runs"]]
    try:
        return hard_queries(board, tested[0], teachers[0] if teachers else None, root), []
    except (DmkdError, TrackingError, OSError) as error:
        print(f"note: no hard queries are shown: {error}", file=sys.stderr)
        return [], [f"No hard queries: {error}"]

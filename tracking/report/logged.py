"""The report in MLflow: its figures on the sweep's parent run, and the board as the run's description."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from tracking.client import connect, translated
from tracking.errors import TrackingError
from tracking.leaderboard import leaderboard, other_roles
from tracking.render import render
from tracking.report.material import Material
from tracking.report.write import write_report

if TYPE_CHECKING:
    from tracking.show import Board

DESCRIPTION = "mlflow.note.content"
MOST = 7900
"""Letters of a tag that every store of MLflow keeps (8000, less some)."""
BEGINS = "\n\n<!-- dmkd: the board -->\n\n"
"""Divides what the sweep says of itself from the board, which is written again each time."""


def log_report(material: Material) -> str:
    """Put page and figures (as PNG) under `report/` of the newest parent run of the experiment; its run id.

    An experiment without a description gets the first paragraph of the sweep's.

    Raises `TrackingError` where there is no parent run, or the tracker refuses.
    """
    run_id = parent_of(material.board)
    client = connect(material.board.uri)
    with tempfile.TemporaryDirectory() as folder, translated(material.board.uri):
        written = write_report(material, folder)
        client.log_artifact(run_id, str(written.page), "report")
        for path in written.figures:
            if path.suffix == ".png":
                client.log_artifact(run_id, str(path), "report/figures")
        run = client.get_run(run_id)
        said = run.data.tags.get(DESCRIPTION, "").split(BEGINS)[0]
        client.set_tag(run_id, DESCRIPTION, _within(f"{said}{BEGINS}{_tables(material.board)}"))
        experiment = client.get_experiment(run.info.experiment_id)
        if said and DESCRIPTION not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, DESCRIPTION, said.split("\n\n")[0])
    return run_id


def _tables(board: Board) -> str:
    """The board, and below it that of the other role where the runs have its scores."""
    frames = [board.frame]
    for select_by, report in other_roles(board.runs, board.question["select_by"]):
        asked = board.question | {"select_by": select_by, "report": report}
        frames.append(leaderboard(board.runs, outcomes=board.outcomes, **asked))
    return "\n\n".join(render(frame, "md") for frame in frames)


def _within(text: str) -> str:
    """As much of it, in whole lines, as a tag holds."""
    return text if len(text) <= MOST else text[:MOST].rsplit("\n", 1)[0]


def parent_of(board: Board) -> str:
    """The newest parent run of a sweep in the board's experiment. Raises `TrackingError` where there is none."""
    runs = board.runs
    found = runs.filter(runs["tags.dmkd.stage"] == "sweep") if "tags.dmkd.stage" in runs.columns else runs.clear()
    if not found.height:
        raise TrackingError(f"experiment {board.experiment!r}: has no sweep's parent run that a report could be logged to")
    return str(found["run_id"][-1])

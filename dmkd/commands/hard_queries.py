"""Pictures for a report: test queries that a row gets wrong, its first neighbours beside the teacher's."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.commands.places import folder_of

if TYPE_CHECKING:
    from torch import Tensor

    from dmkd.data.pictures import Pictures
    from dmkd.evaluation.measure import Measure, Side
    from dmkd.models import Teacher
    from tracking.report.material import Retrieved
    from tracking.show import Board

SHOWN, NEIGHBOURS, PIXELS = 12, 5, 104
"""Queries, neighbours of each network, and the longer side of a picture on the page."""


def hard_queries(board: Board, student: dict[str, Any], teacher: dict[str, Any] | None, root: str = "") -> list[Retrieved]:
    """The queries of `student` (a row of the board) that are hardest for it; nothing that is drawn here is measured anew.

    `root`: where the data are now. Raises `DmkdError` or `TrackingError` where pictures or checkpoints are missing.
    """
    measure, own, wall = _student(board, student, root)
    asked = _hardest(board, student)
    networks = [(str(student["label"]), own, wall)]
    if wall is not own:
        networks.append((f"teacher, {wall.resolution} px", wall, wall))
    elif teacher is not None and teacher["id"] != student["id"]:
        side = _side(board, teacher, "teacher")
        networks.append((str(teacher["label"]), side, side))
    found = [(name, _neighbours(measure, query, gallery, asked)) for name, query, gallery in networks]
    return [
        _shown(measure.part, position, [(name, lists[place]) for name, lists in found]) for place, position in enumerate(asked)
    ]


def _student(board: Board, row: dict[str, Any], root: str) -> tuple[Measure, Side, Side]:
    """How its test part is measured, its network, and what embeds the gallery that it queries."""
    from dmkd.run import evaluation_config, measure_of
    from dmkd.scoring import best_device

    folder = folder_of(f"runs:/{row['run_id']}", board.uri)
    config = evaluation_config(folder, {"data.root": root} if root else None)
    own = _loaded(folder, "student")
    wall = own if row["role"] != "asymmetric" else _wall(board, config.teacher)
    return measure_of(config.data, config.evaluation, "test", best_device()), own, wall


def _side(board: Board, row: dict[str, Any], role: str) -> Side:
    return _loaded(folder_of(f"runs:/{row['run_id']}", board.uri), role)


def _loaded(folder: Path, role: str, resolution: int = 0) -> Side:
    from dmkd.checkpoint import load_model
    from dmkd.evaluation.measure import Side
    from dmkd.scoring import best_device

    network, info = load_model(folder)
    return Side(network.to(best_device()).eval(), resolution or int(info["resolution"]), role)


def _wall(board: Board, teacher: Teacher) -> Side:
    """The teacher at its own resolution: from its folder, or where that is gone from a run of the sweep that has it.

    A board may have a teacher at the student's resolution too, which embeds no gallery. Raises `TrackingError` without any.
    """
    from tracking.errors import TrackingError

    if Path(teacher.checkpoint or "missing", "model.json").is_file():
        return _loaded(Path(teacher.checkpoint), "teacher", teacher.resolution)
    runs = board.runs
    if "tags.dmkd.label" in runs.columns:
        for run_id in runs.filter((runs["tags.dmkd.label"] == "teacher") & (runs["status"] == "FINISHED"))["run_id"]:
            return _loaded(folder_of(f"runs:/{run_id}", board.uri), "teacher", teacher.resolution)
    raise TrackingError(f"the teacher that embeds the gallery is not at {teacher.checkpoint!r}, and no run of the sweep has it")


def _hardest(board: Board, row: dict[str, Any]) -> list[int]:
    """Queries whose first right neighbour comes last, in the mean over the row's seeds."""
    import polars as pl

    tables = [board.outcomes[run_id] for run_id in row["final_runs"] if run_id in board.outcomes]
    if not tables:
        return []
    ranks = pl.concat([table.select("query", "first_hit") for table in tables]).group_by("query").agg(pl.col("first_hit").mean())
    wrong = ranks.filter(pl.col("first_hit") > 1).sort("first_hit", "query", descending=[True, False])
    step = max(1, wrong.height // SHOWN)
    return [int(query) for query in wrong["query"][::step][:SHOWN]]


def _neighbours(measure: Measure, query: Side, gallery: Side, asked: Sequence[int]) -> list[list[int]]:
    from dmkd.evaluation.neighbours import first_neighbours

    walls: Tensor = measure.embed(gallery)
    return first_neighbours(measure, walls if query is gallery else measure.embed(query), walls, asked, NEIGHBOURS)


def _shown(part: Pictures, position: int, found: list[tuple[str, list[int]]]) -> Retrieved:
    from tracking.report.material import Retrieved

    label = int(part.labels[position])
    columns = tuple(
        (name, tuple((_picture(part, other), _class(part, other), int(part.labels[other]) == label) for other in others))
        for name, others in found
    )
    return Retrieved(_picture(part, position), _class(part, position), columns)


def _class(part: Pictures, position: int) -> str:
    return str(part.classes[int(part.labels[position])])


def _picture(part: Pictures, position: int) -> str:
    """A small JPEG as a data URI."""
    from PIL import Image

    with Image.open(part.file(position)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""The pictures of a report are those that the row's own search finds: an asymmetric student's, in its teacher's gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dmkd.commands.hard_queries import hard_queries
from tests.deploy.conftest import pictures  # noqa: F401  (the fixture)
from tests.deploy.world import checkpoint, embedded, held_out, network
from tests.tracking.checkpoints import logged
from tracking.errors import TrackingError
from tracking.show import Board


def naive(queries: np.ndarray, gallery: np.ndarray, position: int, labels: list[str]) -> list[str]:
    """Classes of the five nearest other pictures."""
    scores = gallery @ queries[position]
    scores[position] = -np.inf
    return [labels[other] for other in np.argsort(-scores)[:5]]


def test_an_asymmetric_students_answers_come_from_its_teachers_gallery_at_its_own_size(database, pictures, tmp_path):  # noqa: F811
    wall, own = network(1, resolution=48), network(2)
    teacher = checkpoint(wall, tmp_path / "teacher", pictures)
    student = logged(database, checkpoint(own, tmp_path / "student", pictures, teacher), row="a" * 12, name="student")
    small = logged(database, checkpoint(network(1, resolution=32), tmp_path / "small", pictures), row="b" * 12, name="small")
    files, labels = held_out(pictures)
    outcomes = pl.DataFrame({"query": [3, 20], "first_hit": [9, 4]})
    row = {"id": "a", "run_id": student, "label": "raml", "role": "asymmetric", "final_runs": [student]}
    runs = pl.DataFrame({"run_id": [small], "status": ["FINISHED"], "tags.dmkd.label": ["teacher, student's resolution"]})
    board = Board(database, "e", runs, {student: outcomes}, pl.DataFrame(), {})
    reference = {"id": "b", "run_id": small, "label": "teacher, student's resolution", "role": "asymmetric"}

    queries, gallery = embedded(own, files).numpy(), embedded(wall, files).numpy()
    for shown, position in zip(hard_queries(board, row, reference), (3, 20), strict=True):
        found = {name: [answer[1] for answer in answers] for name, answers in shown.columns}
        assert found == {
            "raml": naive(queries, gallery, position, labels),
            "teacher, 48 px": naive(gallery, gallery, position, labels),
        }
    # The folder is gone: a run of the sweep has the teacher too, the one at its own resolution.
    Path(tmp_path / "teacher").rename(tmp_path / "moved")
    with pytest.raises(TrackingError, match="no run of the sweep has it"):
        hard_queries(board, row, reference)
    kept = logged(database, tmp_path / "moved", row="c" * 12, name="teacher")
    more = pl.DataFrame({"run_id": [kept], "status": ["FINISHED"], "tags.dmkd.label": ["teacher"]})
    board = Board(database, "e", pl.concat([runs, more]), {student: outcomes}, pl.DataFrame(), {})
    assert [name for name, _ in hard_queries(board, row, reference)[0].columns] == ["raml", "teacher, 48 px"]

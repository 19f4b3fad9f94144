"""A test look at a run's checkpoint after its end counts on the run."""

from __future__ import annotations

import pytest

from tracking.errors import TrackingError
from tracking.looks import count_look
from tracking.runs import load_runs, log_run


def test_looks_add_up_on_the_run_and_are_its_latest_value(database: str) -> None:
    with log_run(database, "e", "final", params={}, tags={}, key="1") as run:
        run.log({"test/map": 0.5, "test_looks": 1.0}, step=7)
    with log_run(database, "e", "other", params={}, tags={}, key="2") as other:
        other.log({"val/map": 0.5}, step=1)
    assert [count_look(f"runs:/{run.id}", database) for _ in range(2)] == [2, 3]
    assert count_look(f"runs:/{other.id}", database) == 1
    counted = {row["run_id"]: row["metrics.test_looks"] for row in load_runs(database).to_dicts()}
    assert counted == {run.id: 3.0, other.id: 1.0}
    with pytest.raises(TrackingError):
        count_look("runs:/0123456789abcdef0123456789abcdef", database)

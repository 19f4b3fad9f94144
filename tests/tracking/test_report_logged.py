"""The report on the sweep's parent run of a real MLflow database: page, figures, and the board as the description."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tracking.client import connect
from tracking.errors import TrackingError
from tracking.reading import load_runs
from tracking.report.logged import DESCRIPTION, MOST, _within, log_report, parent_of
from tracking.report.material import gather
from tracking.runs import log_run
from tracking.show import find_board


def trials(uri: str) -> None:
    for number in range(3):
        tags = {"dmkd.row": f"{number}" * 12, "dmkd.config_hash": f"{number}" * 12, "dmkd.stage": "search", "dmkd.seed": "0"}
        tags |= {"dmkd.method": "yu", "dmkd.protocol": "p", "dmkd.sweep": "s"}
        with log_run(uri, "sim/one", f"trial {number}", params={"optim.lr": 10.0**-number}, tags=tags) as run:
            for step in (1, 2):
                run.log({"val/recall_at_1": 0.1 * number + 0.01 * step, "train/loss": 1 / step}, step=step)


def test_figures_and_description_stand_on_the_parent_run_and_are_renewed(database):
    trials(database)
    board = find_board(database)
    with pytest.raises(TrackingError, match="no sweep's parent run"):
        parent_of(board)
    said = {"dmkd.stage": "sweep", DESCRIPTION: "Which rate is best?\n\nA long story."}
    with log_run(database, "sim/one", "s", params={}, tags=said) as parent:
        pass
    board = find_board(database, "sim/one")
    material = gather(board)
    assert material.histories.filter(pl.col("key") == "val/recall_at_1").height == 6
    for _ in range(2):
        assert log_report(material) == parent.id
    run = connect(database).get_run(parent.id)
    assert connect(database).get_experiment(run.info.experiment_id).tags[DESCRIPTION] == "Which rate is best?"
    text = run.data.tags[DESCRIPTION]
    assert text.startswith("Which rate is best?")
    assert text.count("| rank |") == 1
    folder = Path(run.info.artifact_uri.removeprefix("file://")) / "report"
    assert "sim/one" in (folder / "report.html").read_text()
    assert {path.name for path in (folder / "figures").iterdir()} >= {"sensitivity.png", "curves.png", "progress.png"}
    assert load_runs(database, "sim/one").equals(load_runs(database, "sim/one", fresh=True))


def test_the_description_has_a_table_for_each_role_in_whole_lines(database):
    tags = {"dmkd.row": "a" * 12, "dmkd.config_hash": "a" * 12, "dmkd.stage": "search", "dmkd.seed": "0", "dmkd.method": "raml"}
    with log_run(database, "sim/two", "trial", params={}, tags=tags) as run:
        run.log({"val/recall_at_1": 0.25, "val_asymmetric/recall_at_1": 0.5}, step=1)
    said = {"dmkd.stage": "sweep", DESCRIPTION: "long " * 1200, "dmkd.objective": "val_asymmetric/recall_at_1"}
    with log_run(database, "sim/two", "s", params={}, tags=said) as parent:
        pass
    log_report(gather(find_board(database, "sim/two")))
    text = connect(database).get_run(parent.id).data.tags[DESCRIPTION]
    asymmetric, symmetric = (text.index(f"Chosen by {name}") for name in ("val_asymmetric/recall_at_1", "val/recall_at_1"))
    assert asymmetric < symmetric
    assert "| 50.0 |" in text[asymmetric:symmetric]
    assert "| 25.0 |" in text[symmetric:]
    assert _within("row\n" * 5000) == ("row\n" * (MOST // 4)).removesuffix("\n")

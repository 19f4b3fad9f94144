"""`dmkd compare` and `dmkd reproduce` on a row that was trained, logged to a real MLflow database, and is trained again."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from dmkd.cli import main
from dmkd.config import Config, config_hash, from_yaml
from dmkd.evaluation import protocol_fingerprint
from dmkd.run import train_into
from dmkd.space import override
from sweeps.naming import environment
from tests.pictures import make_folder
from tracking.client import connect
from tracking.reading import load_runs
from tracking.runs import log_run

CONFIG = """
data: {name: folder, root: signs, validation: 0, fold: 0}
student: {backbone: resnet18, weights: none, dim: 16, resolution: 32, frozen_batchnorm: false}
method: {name: metric_learning, batches: {size: 6}}
optim: {epochs: 1, lr: 1.0e-3}
evaluation: {test: true, nmi: false}
"""


def log(uri: str, config: Config, folder: Path) -> str:
    """Train a row and log it as the final stage of a sweep does; its run id."""
    (epoch,) = list(train_into(config, folder))
    protocol = protocol_fingerprint(epoch.training.parts.fingerprint, config.data.protocol)
    tags = {
        "dmkd.row": config_hash(config),
        "dmkd.config_hash": config_hash(config),
        "dmkd.stage": "final",
        "dmkd.seed": config.seed,
    }
    tags |= {"dmkd.method": config.method.label, "dmkd.protocol": protocol, "dmkd.commit": "0" * 40}
    with log_run(uri, "pair", "run", params={"seed": config.seed, "optim.lr": config.optim.lr}, tags=tags) as run:
        run.log(epoch.metrics, step=1)
        run.log_text((folder / "checkpoint" / "config.yaml").read_text(), "config.yaml")
        run.log_text(environment().replace("torch==", "torch==0."), "environment.txt")
        for name in ("checkpoint", "evaluation"):
            run.log_artifact(folder / name)
    return str(run.id)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with pictures, a database, and two logged rows."""
    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DMKD_STATE", str(folder / "state"))
        make_folder(folder / "signs", classes=12, size=48)
        config = from_yaml(CONFIG)
        uri = f"sqlite:///{folder}/mlflow.db"
        ids = [log(uri, override(config, {"optim.lr": lr}), folder / f"out{place}") for place, lr in enumerate((1e-3, 1e-2))]
    return folder, ids


@pytest.fixture
def here(world: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(world[0])
    monkeypatch.setenv("DMKD_STATE", str(world[0] / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{world[0]}/mlflow.db")
    return world[1]


def test_a_row_comes_back_when_it_is_run_again(here, capsys):
    main(["leaderboard"])
    shown = capsys.readouterr().out
    main(["reproduce", "1"])
    told = capsys.readouterr()
    assert "test/recall_at_1 came back" in told.out
    assert told.out.splitlines()[0].split()[0] in shown
    assert "made by commit 0000000000" in told.err
    assert "the run had torch 0." in told.err
    assert "look 2" in told.err
    assert load_runs(f"sqlite:///{Path.cwd()}/mlflow.db")["metrics.test_looks"].max() == 2


def test_a_number_that_does_not_come_back_is_said_so_with_status_1(here, capsys):
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    was = load_runs(uri).filter(pl.col("run_id") == here[1])["metrics.test/recall_at_1"].item()
    connect(uri).log_metric(here[1], "test/recall_at_1", was + 0.125, step=2)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", f"runs:/{here[1]}", "--out", "again"])
    assert ended.value.code == 1
    assert "did NOT come back" in capsys.readouterr().out
    main(["reproduce", f"runs:/{here[1]}", "--out", "again", "--tolerance", "0.2"])
    connect(uri).log_metric(here[1], "test/recall_at_1", was, step=3)


def test_other_pictures_or_a_missing_teacher_are_one_line(here, capsys, tmp_path):
    make_folder(tmp_path / "others", classes=12, size=40)
    with pytest.raises(SystemExit):
        main(["reproduce", f"runs:/{here[0]}", "--data-root", str(tmp_path / "others")])
    assert "the data are not those of the run" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        main(["reproduce", f"runs:/{here[0]}", "--seed", "7"])
    assert "has no run with seed 7; there are 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["reproduce", "zzzzzzzz"])
    assert "there are 0 rows" in capsys.readouterr().err


def test_two_rows_are_held_against_each_other_on_the_same_queries(here, capsys):
    main(["compare", f"runs:/{here[0]}", f"runs:/{here[1]}", "--json"])
    found = json.loads(capsys.readouterr().out)
    tables = [pl.read_parquet(f"out{place}/evaluation/queries.parquet").sort("query") for place in (0, 1)]
    hits = [(table["first_hit"] == 1).to_list() for table in tables]
    queries = tables[0]["query"].to_list()
    assert found["queries"] == len(queries)
    assert found["difference"] == pytest.approx(sum(hits[0]) / len(queries) - sum(hits[1]) / len(queries))
    assert found["only_a"] == [query for query, a, b in zip(queries, *hits, strict=True) if a and not b]
    assert found["neither"] == [query for query, a, b in zip(queries, *hits, strict=True) if not a and not b]
    labels = tables[0]["label"].to_list()
    for row in found["classes"]:
        own = [place for place, label in enumerate(labels) if label == row["label"]]
        assert row["queries"] == len(own)
        assert row["a"] == pytest.approx(sum(hits[0][place] for place in own) / len(own))
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    main(["compare", f"runs:/{here[0]}", f"runs:/{here[1]}"])
    text = capsys.readouterr().out
    assert "first neighbour right: both" in text
    with pytest.raises(SystemExit):
        main(["compare", f"runs:/{here[0]}", f"runs:/{here[1]}", "--metric", "test/nmi"])
    assert "is no mean over queries" in capsys.readouterr().err

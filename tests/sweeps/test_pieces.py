"""Folds and seeds as parts of a trial: the arithmetic by hand, and on a real Ray, study and tracker."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from optuna.trial import TrialState
from scipy import stats

from dmkd.checkpoint import read_info
from dmkd.config import Config
from dmkd.data.datasets import load_dataset
from dmkd.data.lineage import known_classes
from dmkd.data.splits import split
from dmkd.errors import SweepError
from dmkd.space import Choice, override
from sweeps.options import Options
from sweeps.pieces import hopeless, make_pieces
from sweeps.plan import Definition, configured
from sweeps.search import SCORES
from sweeps.study import open_study
from sweeps.sweep import run_sweep
from sweeps.teachers import check_folds
from tracking.reading import load_runs

METRIC = "metrics.val/recall_at_1"


def test_a_trial_is_every_fold_with_every_seed():
    base = override(Config(), {"data.folds": 3, "seed": 7})
    assert [piece.name for piece in make_pieces(base)] == ["fold0-seed7", "fold1-seed7", "fold2-seed7"]
    both = make_pieces(base, seeds=2)
    assert len(both) == 6
    assert both[4].values == {"data.fold": 1, "seed": 8}
    assert both[4].label == "fold 1, seed 8"
    (single,) = make_pieces(Config())
    assert (single.name, single.values) == ("", {})


def test_the_paired_comparison_against_its_formula_and_a_simulation():
    """Folds differ by far more than configurations do: unpaired, nothing could be said after one fold."""
    draw = np.random.default_rng(0)
    folds = np.array([0.2, 0.5, 0.8, 0.3])
    complete = [list(folds + offset + draw.normal(0, 0.004, 4)) for offset in (0.0, -0.01, -0.02)]
    assert hopeless({0: complete[0][0] - 0.1}, complete, 4)
    assert not hopeless({0: complete[0][0] - 0.001}, complete, 4)
    assert not hopeless({0: complete[0][0] - 0.5}, complete[:1], 4)  # one complete trial says nothing of the noise
    assert not hopeless({}, complete, 4)
    differences = [np.subtract(one, complete[0]) for one in complete[1:]]
    spread = math.sqrt(sum(((d - d.mean()) ** 2).sum() for d in differences) / 6)
    margin = stats.t.ppf(0.95, 6) * spread * math.sqrt(1 - 1 / 4)
    assert hopeless({0: complete[0][0] - margin - 1e-6}, complete, 4)
    assert not hopeless({0: complete[0][0] - margin + 1e-6}, complete, 4)


def test_an_equal_configuration_is_dropped_as_rarely_as_promised():
    draw, dropped = np.random.default_rng(1), 0
    for _ in range(2000):
        folds = draw.normal(0.5, 0.2, 3)
        runs = [list(folds + draw.normal(0, 0.01, 3)) for _ in range(5)]
        best = max(runs[:4], key=sum)
        fair = list(folds + draw.normal(0, 0.01, 3))
        fair = [value + (sum(best) - sum(fair)) / 3 for value in fair]  # exactly as good as the best, over all folds
        dropped += bool(hopeless({0: fair[0]}, runs[:4], 3))
    assert dropped / 2000 < 0.08


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory, teacher: Config, ray_cluster: None) -> Path:
    """Two configurations that hardly differ, then one whose embedding has one dimension; three folds each."""
    folder = tmp_path_factory.mktemp("folds")
    space = {"student.dim": Choice((16, 1)), "optim.lr": Choice((1e-3, 1.0001e-3))}
    points = ({"optim.lr": 1.0001e-3}, {"student.dim": 1})
    stated = Definition("folded", teacher, space, references=(), points=points, trials=3, seeds=1, finalists=1)
    options = Options(storage=str(folder / "out"), tracking_uri=f"sqlite:///{folder}/mlflow.db", folds=3, max_concurrent=1)
    assert run_sweep(configured(stated, options), options) == []
    return folder


def test_folds_are_runs_of_their_own_and_their_mean_is_the_trials_value(folded: Path) -> None:
    runs = load_runs(f"sqlite:///{folded}/mlflow.db", "folder/folded").filter(pl.col("tags.dmkd.stage") == "search")
    study = open_study(folded / "out" / "folded", "folded")
    for trial in study.trials[:2]:
        mine = runs.filter(pl.col("tags.dmkd.trial") == str(trial.number)).sort("tags.dmkd.fold")
        assert mine["tags.dmkd.fold"].to_list() == ["0", "1", "2"]
        assert mine["params.data.folds"].unique().to_list() == ["3"]
        assert mine["tags.dmkd.row"].n_unique() == 1
        assert trial.state == TrialState.COMPLETE
        assert trial.value == pytest.approx(mine[METRIC].mean(), abs=1e-12)
        assert [trial.user_attrs[SCORES][str(fold)][0] for fold in range(3)] == mine[METRIC].to_list()
        assert trial.intermediate_values == {1: mine[METRIC][0]}
    # The same fold holds out the same classes in every trial: their scores may be paired.
    queries = runs.group_by("tags.dmkd.fold").agg(pl.col("tags.dmkd.data_fingerprint").n_unique())
    assert queries["tags.dmkd.data_fingerprint"].to_list() == [1, 1, 1]


def test_a_hopeless_configuration_is_dropped_after_its_first_fold(folded: Path) -> None:
    runs = load_runs(f"sqlite:///{folded}/mlflow.db", "folder/folded")
    dropped = open_study(folded / "out" / "folded", "folded").trials[2]
    assert dropped.state == TrialState.PRUNED
    assert dropped.user_attrs["reason"].startswith("dropped after 1 of 3 folds and seeds: ")
    mine = runs.filter(pl.col("tags.dmkd.trial") == "2")
    assert mine["tags.dmkd.fold"].to_list() == ["0"]
    assert dropped.intermediate_values == {1: mine[METRIC][0]}


def test_what_the_search_cost_stands_on_the_parent_run(folded: Path) -> None:
    runs = load_runs(f"sqlite:///{folded}/mlflow.db", "folder/folded")
    parent = runs.row(by_predicate=pl.col("tags.dmkd.stage") == "sweep", named=True)
    others = runs.filter(pl.col("tags.dmkd.stage") != "sweep")
    assert parent["metrics.sweep/runs"] == len(others) == 8  # 3 + 3 + 1 in the search, trial 0 in the final stage
    assert parent["metrics.sweep/epochs"] == 8
    assert parent["metrics.sweep/train_seconds"] == pytest.approx(others["metrics.cost/train_seconds"].sum())
    assert (parent["metrics.sweep/trials_complete"], parent["metrics.sweep/trials_pruned"]) == (2, 1)
    assert parent["metrics.sweep/wall_seconds"] > parent["metrics.sweep/train_seconds"] > 0


@pytest.mark.slow
def test_every_fold_has_a_teacher_that_saw_none_of_its_classes(
    tmp_path: Path, base: Config, teacher: Config, ray_cluster: None
) -> None:
    """By the pictures' classes, read from the checkpoints themselves; the trial is one row, and the final stage has the first."""
    student = override(base, {"optim.epochs": 1})
    stated = Definition("taught", student, {}, references=("teacher",), teacher=teacher, trials=1, seeds=1, finalists=1)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = Options(storage=str(tmp_path / "out"), tracking_uri=uri, folds=2, max_concurrent=1)
    asked = configured(stated, options)
    assert run_sweep(asked, options) == []
    runs = load_runs(uri, "folder/taught")
    assert runs.filter(pl.col("tags.dmkd.stage") == "teacher").height == 2
    mine = runs.filter(pl.col("tags.dmkd.stage") == "search").sort("tags.dmkd.fold")
    assert mine["tags.dmkd.fold"].to_list() == ["0", "1"]
    assert mine["tags.dmkd.row"].n_unique() == 1
    pictures = load_dataset(student.data)
    for fold, folder in enumerate(mine["params.teacher.checkpoint"]):
        parts = split(pictures, override(asked.base, {"data.fold": fold}).data)
        assert parts.val is not None
        trained = read_info(folder)["extra"]["trained_on"]
        assert known_classes(trained, parts.val.classes) == []
        assert sorted(known_classes(trained, parts.train.classes)) == sorted(parts.train.classes)
    final = runs.filter((pl.col("tags.dmkd.stage") == "final") & pl.col("tags.dmkd.reference").is_null())
    assert final["params.teacher.checkpoint"].to_list() == [mine["params.teacher.checkpoint"][0]]
    with pytest.raises(SweepError, match="validation classes"):
        check_folds(asked.base, [mine["params.teacher.checkpoint"][0]] * 2)


@pytest.mark.slow
def test_a_warm_started_search_over_several_objectives(folded: Path, teacher: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """Its second trial is the earlier sweep's best other point; one is stopped early; the front is that of brute force."""
    import json

    space = {"student.dim": Choice((16, 8, 1)), "optim.lr": Choice((1e-3, 1.0001e-3))}
    base = override(teacher, {"optim.epochs": 2})
    stated = Definition("front", base, space, references=(), points=({"student.dim": 1},), trials=4, seeds=1, finalists=2)
    options = Options(
        storage=str(folded / "out"),
        tracking_uri=f"sqlite:///{folded}/mlflow.db",
        objective=("dim", "latency"),
        warm_start="folder/folded",
        early_stopping="asha",
        max_concurrent=1,
    )
    assert run_sweep(configured(stated, options), options) == []
    told = capsys.readouterr()
    assert "warm start: 3 points from folder/folded" in told.err
    assert "Pareto front of the search" in told.out
    study = open_study(folded / "out" / "front", "front")
    runs = load_runs(f"sqlite:///{folded}/mlflow.db", "folder/front").filter(pl.col("tags.dmkd.stage") == "search")
    assert [trial.params["student.dim"] for trial in study.trials[:2]] == [16, 1]
    assert study.trials[2].params == {"student.dim": 16, "optim.lr": 1.0001e-3}
    stopped = study.trials[1]
    assert stopped.state == TrialState.PRUNED
    assert stopped.user_attrs["curve"][0][0] == 1
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    columns = ["val/recall_at_1", "model/dim", "model/latency_ms"]
    for trial in complete:
        run = runs.row(by_predicate=pl.col("tags.dmkd.trial") == str(trial.number), named=True)
        assert trial.values == [run[f"metrics.{column}"] for column in columns]
        assert run["metrics.model/latency_p95_ms"] >= run["metrics.model/latency_ms"] > 0
    found = json.loads((folded / "out" / "front" / "pareto.json").read_text())
    assert {row["trial"] for row in found["front"]} == {trial.number for trial in study.best_trials}

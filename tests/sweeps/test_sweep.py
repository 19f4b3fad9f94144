"""A whole sweep on a real Ray, a real Optuna storage and a real MLflow database, looked at from every side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from optuna.trial import TrialState

from dmkd import config as configs
from dmkd.config import Config
from dmkd.run import evaluate_checkpoint
from dmkd.space import Choice, flatten
from sweeps.options import Options
from sweeps.plan import Definition, configured
from sweeps.study import open_study
from sweeps.sweep import run_sweep
from tracking.reading import load_outcomes, load_runs

SPACE = {"student.dim": Choice((16, 1)), "optim.lr": Choice((1e-3, 1e30))}
# One dimension holds two points, so recall falls to chance and the first rung stops it; the rate breaks the loss.
POINTS = ({"student.dim": 1, "optim.lr": 1e-3}, {"student.dim": 16, "optim.lr": 1e30})

pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclass
class Swept:
    """A finished sweep and how it was asked for."""

    folder: Path
    definition: Definition
    failures: list[str]

    def run(self, **options: Any) -> list[str]:
        chosen = Options(storage=str(self.folder / "out"), tracking_uri=f"sqlite:///{self.folder}/mlflow.db", **options)
        return run_sweep(configured(self.definition, chosen), chosen)

    @property
    def trials(self) -> Path:
        return self.folder / "out" / "tiny" / "trials"

    def runs(self) -> pl.DataFrame:
        return load_runs(f"sqlite:///{self.folder}/mlflow.db", "folder/tiny")

    def run_of(self, key: str) -> dict[str, Any]:
        return self.runs().row(by_predicate=pl.col("tags.dmkd.run_key").str.ends_with(f"/{key}"), named=True)


def key_of(run: dict[str, Any]) -> str:
    return str(run["tags.dmkd.run_key"]).rsplit("/", 1)[-1]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, base: Config, teacher: Config) -> Swept:
    folder = tmp_path_factory.mktemp("sweep")
    definition = Definition(
        "tiny",
        base,
        SPACE,
        "A tiny sweep.",
        ("undistilled", "untrained", "teacher"),
        POINTS,
        teacher,
        trials=3,
        seeds=2,
        finalists=2,
    )
    made = Swept(folder, definition, [])
    made.failures = made.run(max_concurrent=1, early_stopping="asha")
    return made


def test_completed_pruned_and_failed_trials_stand_in_the_study_as_such(swept: Swept) -> None:
    complete, pruned, failed = open_study(swept.folder / "out" / "tiny", "tiny").trials
    assert (complete.state, pruned.state, failed.state) == (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    assert complete.params == {"student.dim": 16, "optim.lr": 1e-3}
    assert list(complete.intermediate_values) == [1, 2, 3]
    assert complete.value == complete.intermediate_values[3] == swept.run_of("trial-0000")["metrics.val/recall_at_1"]
    assert list(pruned.intermediate_values) == [1]
    assert pruned.intermediate_values[1] < complete.intermediate_values[1]
    assert failed.intermediate_values == {}
    assert "TrainingError" in failed.user_attrs["reason"]
    assert swept.failures == [f"trial 2: {failed.user_attrs['reason']}"]


def test_every_run_is_closed_with_its_own_status_and_reason(swept: Swept) -> None:
    runs = swept.runs()
    assert dict(runs.group_by("status").len().iter_rows()) == {"FINISHED": len(runs) - 2, "KILLED": 1, "FAILED": 1}
    assert swept.run_of("trial-0001")["status"] == "KILLED"
    assert swept.run_of("trial-0001")["tags.dmkd.status_reason"] == "pruned after epoch 1 of 3"
    assert swept.run_of("trial-0002")["status"] == "FAILED"
    assert "TrainingError" in swept.run_of("trial-0002")["tags.dmkd.status_reason"]
    parent = swept.run_of("sweep")
    assert swept.run_of("trial-0000")["name"].endswith(": trial 0")
    assert parent["tags.mlflow.source.type"] == swept.run_of("trial-0000")["tags.mlflow.source.type"] == "LOCAL"
    assert parent["tags.dmkd.objective"] == "val/recall_at_1"
    assert "| rank |" in parent["tags.mlflow.note.content"]
    report = Path(parent["artifact_uri"].removeprefix("file://")) / "report"
    assert {"curves.png", "pareto.png"} <= {path.name for path in (report / "figures").iterdir()}
    children = runs.filter(pl.col("name") != "tiny")
    assert children["tags.mlflow.parentRunId"].unique().to_list() == [parent["run_id"]]


def test_a_trial_is_tagged_and_its_params_are_the_flat_configuration(swept: Swept) -> None:
    run = swept.run_of("trial-0000")
    config = configs.from_yaml((Path(run["artifact_uri"].removeprefix("file://")) / "config.yaml").read_text())
    assert {key: run[f"params.{key}"] for key in flatten(config)} == {key: str(value) for key, value in flatten(config).items()}
    assert config.student.dim == 16
    wanted = {"sweep": "tiny", "trial": "0", "stage": "search", "seed": "0", "fold": "0", "method": "yu/relative"}
    assert {key: run[f"tags.dmkd.{key}"] for key in wanted} == wanted
    assert run["tags.dmkd.config_hash"] == run["tags.dmkd.row"] == configs.config_hash(config)
    assert run["tags.dmkd.protocol"]
    assert run["tags.dmkd.data_fingerprint"]
    assert run["metrics.model/gflops"] > 0


def test_a_run_leaves_checkpoint_configuration_environment_and_outcomes(swept: Swept) -> None:
    place = Path(swept.run_of("trial-0000")["artifact_uri"].removeprefix("file://"))
    found = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    wanted = {
        "config.yaml",
        "environment.txt",
        "checkpoint/weights.safetensors",
        "checkpoint/model.json",
        "evaluation/queries.parquet",
    }
    assert wanted <= found
    assert "torch==" in (place / "environment.txt").read_text()
    # The checkpoint is that of the best epoch by validation.
    trial = open_study(swept.folder / "out" / "tiny", "tiny").trials[0]
    best = json.loads((place / "checkpoint" / "model.json").read_text())
    assert trial.intermediate_values[best["extra"]["epoch"]] == max(trial.intermediate_values.values())


def test_only_the_final_stage_looks_at_test_and_once(swept: Swept) -> None:
    runs = swept.runs()
    final = runs.filter(pl.col("tags.dmkd.stage") == "final")
    others = runs.filter(pl.col("tags.dmkd.stage") != "final")
    assert others["metrics.test/recall_at_1"].null_count() == len(others)
    assert final["metrics.test/recall_at_1"].null_count() == 0
    assert final["metrics.test_looks"].unique().to_list() == [1.0]
    assert final["metrics.val/recall_at_1"].null_count() == len(final)
    assert final["params.data.validation"].unique().to_list() == ["0.0"]
    seeds = {label: sorted(rows["tags.dmkd.seed"]) for (label,), rows in final.group_by("tags.dmkd.label")}
    assert seeds == {"trial 0": ["0", "1"], "undistilled": ["0", "1"], "untrained": ["0"], "teacher": ["0"]}
    # The teacher's test score stands in the row of the run that trained it, trial 0's in the row of its search.
    assert swept.run_of("trial-0000")["tags.dmkd.row"] in final["tags.dmkd.row"]
    trained = runs.row(by_predicate=pl.col("tags.dmkd.stage") == "teacher", named=True)
    evaluated = final.row(by_predicate=pl.col("tags.dmkd.label") == "teacher", named=True)
    assert trained["tags.dmkd.row"] == evaluated["tags.dmkd.row"]
    outcomes = load_outcomes("", final)
    assert {len(frame) for frame in outcomes.values()} == {48}  # 8 test classes of 6 pictures, all of them queries


def test_the_checkpoint_gives_the_logged_recall_again(swept: Swept) -> None:
    final = swept.runs().filter((pl.col("tags.dmkd.label") == "trial 0") & (pl.col("tags.dmkd.seed") == "1")).row(0, named=True)
    scores = evaluate_checkpoint(swept.trials / key_of(final) / "checkpoint")
    assert scores["test/recall_at_1"] == final["metrics.test/recall_at_1"]


def test_a_second_run_repeats_nothing(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    before = swept.runs()
    assert swept.run() == []
    after = swept.runs()
    assert after.equals(before)
    captured = capsys.readouterr()
    assert "already finished" in captured.err
    assert "yu/relative" in captured.out
    assert "dmkd pull" in captured.out


def test_what_is_missing_of_a_sweep_is_run_and_nothing_else(swept: Swept) -> None:
    """As after a killed driver: the record says unfinished, one final run has not ended."""
    before = swept.runs()
    lost = before.filter((pl.col("tags.dmkd.label") == "undistilled") & (pl.col("tags.dmkd.seed") == "1")).row(0, named=True)
    (swept.trials / key_of(lost) / "done.json").unlink()
    record = swept.folder / "out" / "tiny" / "sweep.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": False}))
    swept.run(resume=True)
    after = swept.runs()
    assert after["run_id"].to_list() == before["run_id"].to_list()
    again = after.join(before, on="run_id", suffix="_before").filter(pl.col("end_time") != pl.col("end_time_before"))
    assert set(again["name"]) == {"tiny", lost["name"]}
    assert (
        again.row(by_predicate=pl.col("name") == lost["name"], named=True)["metrics.test/recall_at_1"]
        == lost["metrics.test/recall_at_1"]
    )


def test_an_extended_sweep_runs_its_new_trials_in_the_same_study_and_parent(swept: Swept) -> None:
    before = swept.runs()
    swept.run(extend=1)
    study = open_study(swept.folder / "out" / "tiny", "tiny")
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    new = swept.runs().join(before, on="run_id", how="anti")
    assert "trial-0003" in [key_of(run) for run in new.to_dicts()]
    assert set(new["tags.mlflow.parentRunId"]) == {swept.run_of("sweep")["run_id"]}


def test_failed_trials_alone_run_again_when_asked(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    before, earlier = swept.runs(), open_study(swept.folder / "out" / "tiny", "tiny").trials
    failed = [trial.params for trial in earlier if trial.state == TrialState.FAIL]
    failures = swept.run(rerun_failed=True)
    told = capsys.readouterr().err
    assert f"--rerun-failed: {len(failed)} to run again" in told
    again = open_study(swept.folder / "out" / "tiny", "tiny").trials[len(earlier) :]
    assert [trial.params for trial in again] == failed
    assert [trial.state for trial in again] == [TrialState.FAIL] * len(failed)
    assert failures == [f"trial {trial.number}: {trial.user_attrs['reason']}" for trial in again]
    new = swept.runs().join(before, on="run_id", how="anti")
    assert sorted(map(key_of, new.to_dicts())) == [f"trial-{trial.number:04d}" for trial in again]
    assert swept.run_of("sweep")["params.trials"] == "3"
    assert "is continued with other params" not in told

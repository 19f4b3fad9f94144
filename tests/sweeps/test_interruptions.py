"""What is killed goes on, and ends as if nothing had happened. Each driver here starts a Ray of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from optuna.trial import TrialState

from sweeps.cluster import ROOT
from sweeps.study import open_study
from tracking.reading import load_runs

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
root = sys.argv.pop(1)
from dmkd.config import Config
from dmkd.data import Data
from dmkd.data.batches import Batches
from dmkd.distill.metric_learning import MetricLearning
from dmkd.evaluation import Evaluation
from dmkd.models import Network
from dmkd.optim import Optim
from dmkd.space import Range
from sweeps.sweep import sweep

NETWORK = Network(backbone="timm/mobilenetv3_small_050", weights="none", dim=16, resolution=32, frozen_batchnorm=False)
BASE = Config(
    data=Data(name="folder", root=root, validation=0.34),
    student=NETWORK,
    method=MetricLearning(batches=Batches(size=8, images_per_class=2, iterations=8)),
    optim=Optim(epochs=6, lr=1e-3),
    evaluation=Evaluation(nmi=False),
)
if __name__ == "__main__":
    space = {"optim.lr": Range(1e-4, 1e-2, log=True)}
    sweep("killed", BASE, space, trials=3, seeds=2, finalists=1, references=("untrained",), sampler="grid")
"""


class Driver:
    """The script as a user runs it, in a folder of its own."""

    def __init__(self, folder: Path, pictures: Path) -> None:
        self.folder, self.pictures = folder, pictures
        folder.mkdir()
        (folder / "script.py").write_text(SCRIPT)

    def start(self, *options: str) -> subprocess.Popen[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
        kept |= {"DMKD_STATE": str(self.folder / "state"), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"}
        command = [sys.executable, "script.py", str(ROOT), str(self.pictures), "--early-stopping", "none", *options]
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(command, cwd=self.folder, env=kept, stdout=log, stderr=log, text=True, start_new_session=True)

    def run(self, *options: str) -> None:
        assert self.start(*options).wait(600) == 0, (self.folder / "log").read_text()

    def look(self) -> str:
        """`dmkd leaderboard`, and what it says on standard error."""
        environment = os.environ | {"DMKD_STATE": str(self.folder / "state")}
        command = [sys.executable, "-m", "dmkd", "leaderboard", "--tracking-uri", f"sqlite:///{self.folder}/mlflow.db"]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False).stderr

    @property
    def out(self) -> Path:
        return self.folder / "dmkd-output" / "killed"

    def epoch(self, key: str) -> int:
        path = self.out / "trials" / key / "progress.json"
        return int(json.loads(path.read_text())["epoch"]) if path.exists() else 0

    def results(self) -> dict[str, list[Any]]:
        """What must not depend on what happened on the way: every run's status and scores, and the study."""
        runs = load_runs(f"sqlite:///{self.folder}/mlflow.db").filter(pl.col("name") != "killed").sort("name")
        assert runs["name"].is_unique().all()
        columns = [
            "name",
            "status",
            "metrics.val/recall_at_1",
            "metrics.test/recall_at_1",
            "metrics.train/metric",
            "metrics.test_looks",
        ]
        study = [
            (trial.number, trial.state, trial.value, trial.params, trial.intermediate_values)
            for trial in open_study(self.out, "killed").trials
        ]
        return {"runs": runs.select(columns).rows(), "study": study, "steps": [self.steps(run) for run in runs["run_id"]]}

    def steps(self, run_id: str) -> list[int]:
        from contextlib import closing
        from sqlite3 import connect

        with closing(connect(self.folder / "mlflow.db")) as database:
            found = database.execute("SELECT step FROM metrics WHERE run_uuid = ? AND key = 'cost/train_seconds'", (run_id,))
            return sorted(step for (step,) in found)


def wait_for(condition: Callable[[], bool], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.05)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a driver at once, and then the Ray that it started."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=20)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, list[Any]]:
    driver = Driver(tmp_path_factory.mktemp("undisturbed") / "sweep", pictures)
    driver.run()
    found = driver.results()
    assert found["runs"][-1][0] == "untrained, final, seed 0"
    assert found["steps"] == [list(range(1, 7))] * 5 + [[0]]
    return found


def test_a_killed_worker_continues_bit_for_bit(tmp_path: Path, pictures: Path, undisturbed: dict[str, list[Any]]) -> None:
    driver = Driver(tmp_path / "sweep", pictures)
    process = driver.start()
    wait_for(lambda: 2 <= driver.epoch("trial-0000") < 6)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "ResourceTrainable" in child.name() + " ".join(child.cmdline())
    ]
    assert workers
    for worker in workers:
        worker.kill()
    assert process.wait(600) == 0, (driver.folder / "log").read_text()
    assert driver.results() == undisturbed


def test_a_killed_driver_is_resumed_with_nothing_lost_or_repeated(
    tmp_path: Path, pictures: Path, undisturbed: dict[str, list[Any]]
) -> None:
    driver = Driver(tmp_path / "sweep", pictures)
    process = driver.start()
    wait_for(lambda: driver.epoch("trial-0000") >= 2)
    end(process)
    states = [trial.state for trial in open_study(driver.out, "killed").trials]
    assert TrialState.RUNNING in states
    # Whoever looks next closes what the dead left: in the tracker, and in the study, where it waits for --resume.
    assert "waits for --resume" in driver.look()
    assert set(load_runs(f"sqlite:///{driver.folder}/mlflow.db")["status"]) <= {"KILLED", "FINISHED"}
    left = [trial.state for trial in open_study(driver.out, "killed").trials]
    assert left == [TrialState.WAITING if state == TrialState.RUNNING else state for state in states]
    again = driver.start()
    assert again.wait(120) == 2
    assert "--resume goes on with it" in (driver.folder / "log").read_text()
    process = driver.start("--resume")
    wait_for(lambda: any(driver.out.glob("trials/final-*/done.json")))
    end(process)
    driver.run("--resume")
    assert driver.results() == undisturbed
    runs = load_runs(f"sqlite:///{driver.folder}/mlflow.db")
    assert set(runs["status"]) == {"FINISHED"}


def test_control_c_once_stops_gently_and_resumes(tmp_path: Path, pictures: Path, undisturbed: dict[str, list[Any]]) -> None:
    driver = Driver(tmp_path / "sweep", pictures)
    process = driver.start()
    wait_for(lambda: driver.epoch("trial-0000") >= 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(180) == 130, (driver.folder / "log").read_text()
    assert "--resume goes on" in (driver.folder / "log").read_text()
    runs = load_runs(f"sqlite:///{driver.folder}/mlflow.db")
    assert "RUNNING" not in set(runs["status"])
    driver.run("--resume")
    assert driver.results() == undisturbed


def test_sigterm_to_the_driver_leaves_a_resumable_state_at_once(
    tmp_path: Path, pictures: Path, undisturbed: dict[str, list[Any]]
) -> None:
    """As `ray job stop` does it: SIGTERM, and three seconds later the end."""
    driver = Driver(tmp_path / "sweep", pictures)
    process = driver.start()
    wait_for(lambda: driver.epoch("trial-0000") >= 2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        status = process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(family, timeout=20)
    if status == 143:
        assert "terminated; nothing is lost" in (driver.folder / "log").read_text()
    driver.look()
    assert "RUNNING" not in set(load_runs(f"sqlite:///{driver.folder}/mlflow.db")["status"])
    assert TrialState.RUNNING not in [trial.state for trial in open_study(driver.out, "killed").trials]
    driver.run("--resume")
    assert driver.results() == undisturbed


def test_control_c_twice_stops_hard_and_resumes(tmp_path: Path, pictures: Path, undisturbed: dict[str, list[Any]]) -> None:
    driver = Driver(tmp_path / "sweep", pictures)
    process = driver.start()
    wait_for(lambda: driver.epoch("trial-0000") >= 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, (driver.folder / "log").read_text()
    driver.run("--resume")
    assert driver.results() == undisturbed

"""A sweep whose storage is a bucket: what is killed goes on, and ends as the undisturbed sweep in a folder does, bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweeps.bucket import store as stores
from sweeps.bucket.head import change_head, read_head
from sweeps.bucket.lease import DRIVER
from sweeps.bucket.storage import Bucket
from sweeps.study import open_study
from tests.faults.drivers import SmallDriver, end, wait_for
from tests.sweeps.bucket.server import Server
from tracking.reading import load_runs

pytestmark = pytest.mark.slow

STORAGE = "s3://sweeps/mine"
TRIALS, EPOCHS = 2, 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, list[Any]]:
    driver = SmallDriver(tmp_path_factory.mktemp("undisturbed") / "sweep", pictures, TRIALS, EPOCHS)
    driver.run("--max-concurrent", "1")
    return driver.results()


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DMKD_SCRATCH", str(tmp_path / "scratch"))
        monkeypatch.setenv("DMKD_HEARTBEAT", "2")
        stores._client.cache_clear()
        stores._client().create_bucket(Bucket="sweeps")
        yield stores._client()
    stores._client.cache_clear()


class BucketDriver(SmallDriver):
    """Started with `--storage s3://...`; what it sees of its trials lies in its working folder."""

    def __init__(self, folder: Path, pictures: Path) -> None:
        super().__init__(folder, pictures, TRIALS, EPOCHS)
        self.options = ("--storage", STORAGE, "--max-concurrent", "1")

    @property
    def out(self) -> Path:
        return Bucket.of(STORAGE, "killed").root


def test_a_killed_worker_goes_on_from_the_bucket(
    tmp_path: Path, pictures: Path, s3: Any, undisturbed: dict[str, list[Any]]
) -> None:
    driver = BucketDriver(tmp_path / "sweep", pictures)
    process = driver.start(*driver.options)
    driver.at_work(0, 2)
    driver.signal(0, signal.SIGKILL)
    wait_for(lambda: driver.token(0) == 2, 300)
    assert process.wait(600) == 0, driver.log()
    assert driver.results() == undisturbed
    assert "its worker ended; the trial goes on from epoch" in driver.log()
    assert set(load_runs(f"sqlite:///{driver.folder}/mlflow.db")["status"]) == {"FINISHED"}
    leaves_no_waste(s3)
    assert "planted" not in driver.log() + "".join(objects(s3))


def objects(s3: Any) -> dict[str, bytes]:
    found = s3.list_objects_v2(Bucket="sweeps").get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket="sweeps", Key=item["Key"])["Body"].read() for item in found}


def leaves_no_waste(s3: Any) -> None:
    """Every object is a head, or named by one; no checkpoint secret, no sign of life is left."""
    found = objects(s3)
    heads = {key: json.loads(body) for key, body in found.items() if key.endswith(".json")}
    named = {f"mine/killed/{file['at']}" for head in heads.values() for file in head["files"].values() if "at" in file}
    assert found.keys() == heads.keys() | named
    assert not any(b"planted" in body for body in found.values())


def test_a_killed_driver_is_resumed_on_another_machine(
    tmp_path: Path, pictures: Path, s3: Any, undisturbed: dict[str, list[Any]]
) -> None:
    """Nothing of the first is left but the bucket and the tracker; whether it lives can only be told by watching."""
    first, second = (BucketDriver(tmp_path / name, pictures) for name in ("first", "second"))
    process = first.start(*first.options)
    wait_for(lambda: first.epoch("trial-0000") >= 2, 600)
    end(process)
    here = ("--tracking-uri", f"sqlite:///{first.folder}/mlflow.db")
    store = Bucket.of(STORAGE, "killed").store
    shutil.rmtree(tmp_path / "scratch")
    shutil.rmtree(first.folder / "state")
    elsewhere(store)
    second.run(*second.options, *here, "--resume")
    assert "still lives" in second.log()
    states = [trial.state for trial in open_study(second.out, "killed").trials]
    assert states == [TrialState.COMPLETE] * TRIALS
    shutil.copy(first.folder / "mlflow.db", second.folder / "mlflow.db")
    assert second.results() == undisturbed
    assert set(load_runs(f"sqlite:///{second.folder}/mlflow.db")["status"]) == {"FINISHED"}
    leaves_no_waste(s3)


def elsewhere(store: stores.Store) -> None:
    """The driver's head names another machine."""
    while True:
        found = read_head(store, DRIVER)
        assert found is not None
        try:
            change_head(store, DRIVER, *found, replace(found[0], who={**found[0].who, "machine": "another"}))
            return
        except stores.Conflict:
            continue

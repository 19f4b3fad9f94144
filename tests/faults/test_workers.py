"""What befalls single workers: each trial of one sweep suffers another fault, and the sweep ends as if nothing had been."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.drivers import SmallDriver, gone, wait_for
from tracking.heartbeat import read_beat
from tracking.reading import load_runs

pytestmark = pytest.mark.slow

QUICK = {"DMKD_HEARTBEAT": "5", "DMKD_SILENCE": "20", "DMKD_GRACE": "0"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, list[Any]]:
    driver = SmallDriver(tmp_path_factory.mktemp("undisturbed") / "sweep", pictures)
    driver.run("--max-concurrent", "1")
    return driver.results()


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> SmallDriver:
    """Trial 0 gets SIGTERM, trial 1 is frozen, the data of trial 2 stop answering, trial 3 is killed."""
    pictures = Path(shutil.copytree(pictures, tmp_path_factory.mktemp("pictures") / "signs"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setenv(name, value)
        driver = SmallDriver(tmp_path_factory.mktemp("disturbed") / "sweep", pictures)
        process = driver.start("--max-concurrent", "1")
        try:
            for number, fault in enumerate((terminate, freeze, hang, kill)):
                driver.at_work(number, 2)
                began = time.monotonic()
                fault(driver, number, pictures)
                print(f"{fault.__name__}: noticed, and begun anew, after {time.monotonic() - began:.0f} s")
            assert process.wait(900) == 0, driver.log()
        finally:
            process.kill()
            process.wait()
    return driver


def terminate(driver: SmallDriver, number: int, pictures: Path) -> None:
    pid = driver.signal(number, signal.SIGTERM)
    wait_for(lambda: gone(pid), 60)
    wait_for(lambda: driver.token(number) == 2)


def freeze(driver: SmallDriver, number: int, pictures: Path) -> None:
    pid = driver.signal(number, signal.SIGSTOP)
    wait_for(lambda: gone(pid), 120)
    wait_for(lambda: driver.token(number) == 2)


def hang(driver: SmallDriver, number: int, pictures: Path) -> None:
    """The storage of the pictures stops to answer: a pipe that nobody writes to stands where a picture was."""
    moved = []
    for picture in sorted(pictures.rglob("*.png")):
        picture.rename(picture.with_suffix(".away"))
        os.mkfifo(picture)
        moved.append(picture)
    wait_for((driver.trial(number) / "hung.txt").exists, 300)
    for picture in moved:
        picture.unlink()
        picture.with_suffix(".away").rename(picture)
    wait_for(lambda: driver.token(number) == 2)


def kill(driver: SmallDriver, number: int, pictures: Path) -> None:
    driver.signal(number, signal.SIGKILL)
    wait_for(lambda: driver.token(number) == 2)


def run_of(driver: SmallDriver, number: int) -> dict[str, Any]:
    runs = load_runs(f"sqlite:///{driver.folder}/mlflow.db")
    key = "tags.dmkd.run_key"
    return runs.filter(runs[key].str.ends_with(f"/trial-{number:04d}")).row(0, named=True)


def test_everything_ends_as_in_the_undisturbed_sweep(disturbed: SmallDriver, undisturbed: dict[str, list[Any]]) -> None:
    """Bit for bit: scores, study, steps; one run a trial, no gap, no step twice."""
    assert disturbed.results() == undisturbed
    assert set(load_runs(f"sqlite:///{disturbed.folder}/mlflow.db")["status"]) == {"FINISHED"}


@pytest.mark.parametrize("number", range(4), ids=["sigterm", "frozen", "hung", "killed"])
def test_a_disturbed_trial_went_on_from_its_last_epoch(disturbed: SmallDriver, number: int) -> None:
    assert disturbed.token(number) == 2
    assert run_of(disturbed, number)["tags.dmkd.resume"].startswith("from epoch ")
    # It was disturbed after epoch 2, or between the end of that epoch and its last byte on disk.
    assert int(run_of(disturbed, number)["tags.dmkd.resume"].split()[2].rstrip(",")) >= 1


def test_what_was_terminated_counts_as_no_death_and_what_hung_says_where(disturbed: SmallDriver) -> None:
    assert (read_beat(disturbed.trial(0) / "attempts.json") or {})["deaths"] == []
    assert "dmkd/data" in (disturbed.trial(2) / "hung.txt").read_text()
    assert "a worker was silent for 15 s and is ended" in disturbed.log()

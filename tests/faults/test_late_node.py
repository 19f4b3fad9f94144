"""A node that joins late with other pictures takes no trial: those that land on it go elsewhere, and nothing fails for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from sweeps.cluster import ROOT
from tests.faults.drivers import SmallDriver, wait_for
from tests.sweeps.nodes import Nodes


@pytest.fixture
def nodes(tmp_path: Path, pictures: Path) -> Iterator[Nodes]:
    """A head without room for trials; nodes join in the tests."""
    for name in ("good", "late"):
        shutil.copytree(pictures, tmp_path / name / "folder")
    some = sorted((tmp_path / "late" / "folder").rglob("*.png"))[0]
    Image.open(some).rotate(90).save(some)
    started = Nodes(cpus=0, DMKD_ONE_MACHINE="1", DMKD_DATA=str(tmp_path / "good"))
    try:
        yield started
    finally:
        started.close()


def node_of(nodes: Nodes, pid: int) -> str:
    """Which node a worker process lives on."""
    family = {parent.pid for parent in psutil.Process(pid).parents()}
    return next(name for name, process in nodes.processes.items() if process.pid in family)


@pytest.mark.slow
def test_a_late_node_with_other_pictures_takes_no_trial(nodes: Nodes, tmp_path: Path, pictures: Path) -> None:
    told = {"DMKD_ONE_MACHINE": "1", "DMKD_HEARTBEAT": "200"}  # nobody takes the frozen worker below for a dead one
    good, late = (told | {"DMKD_DATA": str(tmp_path / name)} for name in ("good", "late"))
    for name in ("first", "second"):
        nodes.add(name, **good)
    driver = SmallDriver(tmp_path / "sweep", pictures, trials=3, epochs=6)
    command = [sys.executable, "script.py", str(ROOT), "", "--early-stopping", "none"]
    with (driver.folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=driver.folder, env=nodes.environment | good, stdout=log, stderr=log)
    try:
        wait_for(lambda: process.poll() is not None or (driver.epoch("trial-0000") and driver.epoch("trial-0001")), 600)
        assert process.poll() is None, driver.log()
        nodes.add("late", cpus=2, **late)
        lost = node_of(nodes, driver.worker(1))
        assert lost != node_of(nodes, driver.worker(0))
        frozen = driver.signal(0, signal.SIGSTOP)
        nodes.kill(lost)  # the late node alone has room for what ran there
        wait_for(lambda: process.poll() is not None or "goes to another node" in driver.log(), 600)
        os.kill(frozen, signal.SIGCONT)
        assert process.wait(900) == 0, driver.log()
    finally:
        process.kill()
        process.wait()
    log = driver.log()
    (told,) = [line for line in log.splitlines() if "takes no trial of this sweep" in line]
    assert told.startswith("dmkd: node late (")
    assert "has other pictures (fingerprint" in told
    assert "copy it again there" in told
    assert "goes to another node" in log
    results = driver.results()
    assert {run[1] for run in results["runs"]} == {"FINISHED"}
    assert all(steps == [1, 2, 3, 4, 5, 6] for steps in results["steps"])
    assert [driver.token(number) for number in range(3)] == [1, 2, 1], "the late node has touched nothing"

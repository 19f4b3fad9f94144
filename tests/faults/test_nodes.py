"""Several nodes (Ray's own cluster utility, on this machine): one dies, the head dies while its workers live."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.cluster import QUIET, ROOT
from tests.faults.drivers import SmallDriver, gone, wait_for
from tracking.heartbeat import read_beat

pytestmark = pytest.mark.slow


class Nodes:
    """A head without room for trials, and nodes with one CPU each."""

    def __init__(self, count: int) -> None:
        from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
        from ray.cluster_utils import Cluster

        ensure_token_if_auth_enabled(None, create_token_if_missing=True)
        small = {"object_store_memory": 80 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | small)
        self.nodes = [self.cluster.add_node(num_cpus=1, **small) for _ in range(count)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def node_of(self, pid: int) -> int:
        """Which node a worker process lives on."""
        family = {parent.pid for parent in psutil.Process(pid).parents()}
        held = [{info.process.pid for info in node.all_processes["raylet"]} for node in self.nodes]
        return next(number for number, pids in enumerate(held) if pids & family)

    def close(self) -> None:
        self.cluster.shutdown()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DMKD_ONE_MACHINE", "1")  # else a local disk and sqlite are refused for several nodes
    started = Nodes(3)
    try:
        yield started
    finally:
        started.close()


class ClusterDriver(SmallDriver):
    """A driver that joins a running cluster."""

    address = ""

    def start(self, *options: str) -> Any:
        if self.address:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DMKD_TEST_ADDRESS", self.address)
                text = (self.folder / "script.py").read_text()
                join = "import os; os.environ['RAY_ADDRESS'] = os.environ['DMKD_TEST_ADDRESS']\n"
                (self.folder / "script.py").write_text(join + text.removeprefix(join))
                return super().start(*options)
        text = (self.folder / "script.py").read_text()
        (self.folder / "script.py").write_text("\n".join(line for line in text.splitlines() if "RAY_ADDRESS" not in line))
        return super().start(*options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, list[Any]]:
    driver = SmallDriver(tmp_path_factory.mktemp("undisturbed") / "sweep", pictures, trials=3)
    driver.run()
    return driver.results()


def test_a_node_dies_and_its_trial_moves(nodes: Nodes, tmp_path: Path, pictures: Path, undisturbed: dict[str, list[Any]]) -> None:
    driver = ClusterDriver(tmp_path / "sweep", pictures, trials=3)
    driver.address = nodes.address
    process = driver.start()
    try:
        driver.at_work(0, 2)
        dead = nodes.node_of(driver.worker(0))
        nodes.cluster.remove_node(nodes.nodes.pop(dead), allow_graceful=False)
        assert process.wait(900) == 0, driver.log()
    finally:
        process.kill()
        process.wait()
    assert driver.results() == undisturbed
    assert [driver.token(number) for number in range(3)] == [2, 1, 1], "nothing else was disturbed"


def test_the_head_dies_while_a_worker_lives_and_the_late_one_stops_itself(
    nodes: Nodes, tmp_path: Path, pictures: Path, undisturbed: dict[str, list[Any]]
) -> None:
    """Driver and head are gone, a worker was frozen and knows nothing; `--resume` elsewhere; then the worker wakes up."""
    driver = ClusterDriver(tmp_path / "sweep", pictures, trials=3)
    driver.address = nodes.address
    process = driver.start()
    driver.at_work(0, 2)
    late = driver.signal(0, signal.SIGSTOP)
    head = nodes.cluster.head_node
    for kind in ("gcs_server", "raylet"):  # the head first: it would have the workers of a dead driver ended
        for info in head.all_processes.get(kind, []):
            info.process.kill()
    process.kill()
    process.wait()
    driver.address = ""
    again = driver.start("--resume")
    try:
        wait_for(lambda: driver.token(0) == 2, 300)
        wait_for(lambda: driver.epoch("trial-0000") >= 3, 300)
        before = (read_beat(driver.trial(0) / "writer.json") or {})["pid"]
        assert before != late
        began = time.monotonic()
        with suppress(ProcessLookupError):  # its own node may have ended it meanwhile: it misses its head after a minute
            os.kill(late, signal.SIGCONT)
        wait_for(lambda: gone(late), 120)
        print(f"the late worker had ended {time.monotonic() - began:.0f} s after it woke up")
        assert again.wait(900) == 0, driver.log()
    finally:
        again.kill()
        again.wait()
    assert driver.results() == undisturbed

"""A client is killed and never comes back: its runs are closed by whoever looks next, those of the living never."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import python
from tests.tracking.tracked import history, spools
from tracking.client import connect
from tracking.delivery import HEARTBEAT, SPOOL, Sender
from tracking.heartbeat import lost_after
from tracking.reading import load_runs
from tracking.reaping import reap, running
from tracking.runs import start_run, sync
from tracking.spool import Spool

GIVEN: dict[str, Any] = {"params": {}, "tags": {}}
LIVES = (
    "import sys, time\nfrom tracking.runs import start_run\nuri, spool = sys.argv[1:]\n"
    "run = start_run(uri, 'e', 'x', params={}, tags={}, key='k', spool=spool)\nrun.log({'a': 1.0}, 1)\n"
    "run._courier.poke = lambda: None\nrun.log({'a': 2.0}, 2)\nprint('up', flush=True)\ntime.sleep(300)"
)


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMKD_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def row(uri: str) -> dict[str, Any]:
    return load_runs(uri, "e").row(0, named=True)


def gone(uri: str, run_id: str, seconds: float) -> None:
    """The last beat that reached the tracker lies so far back."""
    beat = connect(uri).get_run(run_id).data.tags[HEARTBEAT].partition(" ")[0]
    connect(uri).set_tag(run_id, HEARTBEAT, f"{beat} {int((time.time() - seconds) * 1000)}")


def test_the_living_are_left_alone_and_the_dead_are_closed_with_all_they_had_written(database: str, tmp_path: Path) -> None:
    with python(LIVES, database, tmp_path / "spool"):
        assert reap(database) == []
        assert row(database)["status"] == "RUNNING"
    assert [run.name for run in reap(database, "e")] == ["x"]
    found = row(database)
    assert (found["status"], found["metrics.a"]) == ("KILLED", 2.0)
    assert "without closing" in found["tags.dmkd.status_reason"]
    assert reap(database) == []
    assert running(database) == []


@pytest.mark.parametrize("command", ["leaderboard", "doctor"])
def test_whoever_looks_closes_what_the_dead_left(
    command: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dmkd.cli import main
    from sweeps.checks import doctor

    monkeypatch.setattr(doctor, "examine", lambda patient: [])
    with python(LIVES, database, tmp_path / "spool"):
        pass
    with suppress(SystemExit):  # one point without a score is no board
        main([command, "--tracking-uri", database])
    assert "note: run x was left RUNNING by a dead process: closed" in capsys.readouterr().err
    assert row(database)["status"] == "KILLED"


def test_a_run_that_spools_is_not_reaped(database: str, tmp_path: Path) -> None:
    """The tracker was away for its writer, so nobody heard it there; its spool says that it lives."""
    run = start_run(database, "e", "x", key="k", spool=tmp_path / "spool", **GIVEN)
    run._courier.poke = lambda: None  # type: ignore[method-assign]
    run.log({"a": 1.0}, 1)
    assert run.id is not None
    gone(database, run.id, 10 * lost_after())
    assert reap(database, "e") == []
    assert row(database)["status"] == "RUNNING"
    assert run.finish()


@pytest.mark.parametrize("kind", ["database", pytest.param("server", marks=pytest.mark.slow)])
def test_where_nobody_sees_its_spool_the_last_beat_in_the_tracker_decides(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The machine is gone, and the disk that it spooled to."""
    uri = request.getfixturevalue(kind)
    run = start_run(uri, "e", f"away {kind}", spool=tmp_path / "spool", **GIVEN)
    assert run.id is not None
    connect(uri).set_tag(run.id, SPOOL, "/of/another/machine")
    assert reap(uri, "e") == []
    gone(uri, run.id, lost_after() + 5)
    assert [found.run_id for found in reap(uri, "e")] == [run.id]
    told = connect(uri).get_run(run.id)
    assert told.info.status == "KILLED"
    assert "reaped" in told.data.tags["dmkd.status_reason"]
    # It was cut off, not dead: its next beat makes it RUNNING again.
    run._courier._beaten = -1e9
    run.log({"a": 1.0}, 1)
    for _ in range(100):
        if connect(uri).get_run(run.id).info.status == "RUNNING":
            break
        time.sleep(0.05)
    told = connect(uri).get_run(run.id)
    assert (told.info.status, told.data.tags["dmkd.status_reason"]) == ("RUNNING", "")
    assert run.finish()
    assert connect(uri).get_run(run.id).info.status == "FINISHED"


def test_a_late_sync_revives_a_run_that_was_reaped(database: str, tmp_path: Path) -> None:
    """A cut-off machine ended its run in order, with the tracker away; it was reaped meanwhile; then its disk is synced."""
    header = {"uri": database, "experiment": "e", "name": "x", "key": "k", "parent_id": None, "start_time": 1} | GIVEN
    spool = Spool.create(tmp_path / "spool", header)
    run_id = Sender(spool).open(live=True)
    spool.append({"metrics": {"a": 1.0}, "step": 1})
    spool.append({"status": "FINISHED", "reason": ""})
    shutil.copytree(spool.folder, tmp_path / "disk")
    spool.release()
    shutil.rmtree(spool.folder)
    gone(database, run_id, lost_after() + 5)
    assert len(reap(database)) == 1
    assert row(database)["status"] == "KILLED"
    shutil.copytree(tmp_path / "disk", spool.folder)
    assert sync(tmp_path / "spool").delivered == 1
    assert (row(database)["status"], row(database)["tags.dmkd.status_reason"]) == ("FINISHED", "")
    assert history(database, run_id, "a") == [(1, 1.0)]


def test_sync_finds_the_spools_of_every_storage(database: str, own: Path, tmp_path: Path) -> None:
    with python(LIVES, database, tmp_path / "storage" / "sweep" / "spool"):
        pass
    environment = os.environ | {"DMKD_STATE": str(own)}
    done = subprocess.run([sys.executable, "-m", "dmkd", "sync"], capture_output=True, text=True, env=environment, check=True)
    # The process noted its spool folder in its own state folder, which is this user's.
    assert "1 runs delivered" in done.stdout
    assert row(database)["status"] == "KILLED"
    assert spools(own) == []


TORN = (
    "import sqlite3, sys\ndatabase = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    "database.execute('PRAGMA cache_size = 1')\ndatabase.execute('BEGIN')\n"
    "for number in range(5000):\n"
    "    database.execute('INSERT INTO experiments (name, lifecycle_stage) VALUES (?, ?)', (f'torn {number}', 'active'))\n"
    "print('up', flush=True)\nsys.stdin.read()"
)


def test_a_writer_that_was_killed_in_the_middle_keeps_nobody_from_reading(database: str) -> None:
    """What it had half written is rolled back by whoever reads next, the leaderboard say."""
    path = Path(database.removeprefix("sqlite:///"))
    with python(TORN, path):
        pass
    assert path.with_name(f"{path.name}-journal").stat().st_size > 512, "it left no half-written transaction"
    assert running(database) == []
    with python(TORN, path):
        pass
    assert load_runs(database).height == 0

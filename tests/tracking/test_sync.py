"""A server that is away, a process that dies: what stays on disk, who sends it, and that it arrives once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.tracking.tracked import GIVEN, history, spools
from tracking.client import connect
from tracking.delivery import Sender
from tracking.runs import load_runs, log_run, start_run, sync
from tracking.spool import Spool


def test_a_server_that_is_away_costs_nothing_but_a_warning_and_sync_delivers_once(line, server, state, caplog):
    experiment = f"away/{time.time_ns()}"
    began = time.monotonic()
    with log_run(line.uri, experiment, "x", key="k", **GIVEN) as run:
        run.log({"val/a": 0.25}, 1)
        run.log_text("x", "x.txt")
        assert run.id is None
    assert time.monotonic() - began < 15
    assert "dmkd sync" in caplog.text
    assert sync().delivered == 0
    (left,) = spools(state)
    shutil.copytree(left, state / "copy")
    line.up()
    assert (sync().delivered, spools(state)) == (1, [])
    shutil.copytree(state / "copy", left)  # as if nobody had noted that it was delivered
    assert sync().delivered == 1
    row = load_runs(server, experiment).row(0, named=True)
    assert row["status"] == "FINISHED"
    assert history(server, row["run_id"], "val/a") == [(1, 0.25)]
    stamps = [json.loads(text)["time"] for text in (state / "copy/events.jsonl").read_text().splitlines()]
    assert connect(server).get_metric_history(row["run_id"], "val/a")[0].timestamp == stamps[0]
    assert row["end_time"].timestamp() * 1000 == pytest.approx(stamps[-1], abs=1)


@pytest.mark.parametrize("note", ["", "\0" * 20, "12"])
def test_a_damaged_note_of_what_was_delivered_sends_it_again(line, server, state, note):
    experiment = f"noted/{time.time_ns()}"
    with log_run(line.uri, experiment, "x", key="k", **GIVEN) as run:
        run.log({"val/a": 0.25}, 1)
        run.log({"val/a": 0.5}, 2)
    (left,) = spools(state)
    whole = sum(map(len, (left / "events.jsonl").read_bytes().splitlines(keepends=True)[:1])) if note == "12" else 0
    (left / "delivered").write_text(f"{whole:020d}" if whole else note)
    line.up()
    assert sync().delivered == 1
    run_id = load_runs(server, experiment)["run_id"][0]
    assert history(server, run_id, "val/a") == [(1, 0.25), (2, 0.5)][bool(whole) :]


def test_a_server_that_comes_back_gets_the_rest_while_training_goes_on(line, server):
    experiment = f"back/{time.time_ns()}"
    line.up()
    with log_run(line.uri, experiment, "x", **GIVEN) as run:
        run.log({"val/a": 0.1}, 1)
        line.down()
        run.log({"val/a": 0.2}, 2)
        time.sleep(0.3)
        line.up()
        run.log({"val/a": 0.3}, 3)
    assert history(server, run.id, "val/a") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert connect(server).get_run(run.id).info.status == "FINISHED"


def test_a_slow_server_does_not_hold_the_trainer(database, monkeypatch, caplog):
    free = threading.Event()
    deliver = Sender.deliver
    monkeypatch.setattr(Sender, "deliver", lambda self: free.wait(30) and deliver(self))
    began = time.monotonic()
    with log_run(database, "e", "x", patience=0.2, **GIVEN) as run:
        run.log({"a": 1.0}, 1)
    assert time.monotonic() - began < 10
    assert "is slow" in caplog.text
    free.set()
    run._courier.join(20)
    assert load_runs(database)["status"].to_list() == ["FINISHED"]


def test_a_killed_process_loses_nothing_and_does_not_stay_running(database, state):
    code = (
        "import os, signal\nfrom tracking.runs import log_run\n"
        f"with log_run({database!r}, 'e', 'x', params={{}}, tags={{}}, key='k') as run:\n"
        "    run._courier.poke = lambda: None\n    run.log({'a': 1.0}, 1)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | {"DMKD_STATE": str(state)}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_runs(database)["status"].to_list() == ["RUNNING"]
    with (spools(state)[0] / "events.jsonl").open("a") as file:
        file.write('{"metrics": {"a": 2')  # the line that the kill tore
    assert sync().delivered == 1
    row = load_runs(database).row(0, named=True)
    assert (row["status"], row["metrics.a"]) == ("KILLED", 1.0)
    assert "without closing" in row["tags.dmkd.status_reason"]


HEADER = {"experiment": "e", "name": "x", "key": "k", "params": {}, "tags": {}, "parent_id": None, "start_time": 1}


def abandoned(state: Path, uri: str) -> Spool:
    """What a process leaves that wrote steps 1 and 2, sent nothing, and died."""
    spool = Spool.create(state / "spool", HEADER | {"uri": uri})
    Sender(spool).open(live=True)
    for step in (1, 2):
        spool.append({"metrics": {"a": float(step)}, "step": step})
    return spool


def test_the_next_process_sends_first_what_the_dead_one_left_and_keeps_the_run_alive(database, state):
    abandoned(state, database).release()
    with log_run(database, "e", "x", key="k", **GIVEN) as run:
        run.log({"a": 20.0}, 2)
        run.log({"a": 3.0}, 3)
    assert history(database, run.id, "a") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert load_runs(database)["status"].to_list() == ["FINISHED"]
    assert spools(state) == []


def test_a_damaged_database_does_not_keep_other_runs_from_being_sent(database, state, tmp_path):
    """As a process leaves one that is killed while it makes the tables."""
    path = tmp_path / "half.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE params (run_uuid TEXT); CREATE INDEX index_params_run_uuid ON params (run_uuid);")
    Spool.create(state / "spool", HEADER | {"uri": f"sqlite:///{path}"}).release()
    abandoned(state, database).release()
    done = sync()
    assert done.delivered == 1
    assert len(done.waiting) == 1
    assert "\n" not in done.waiting[0]
    assert load_runs(database).height == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": "k", "start_time": null}'])
def test_a_damaged_spool_is_named_and_keeps_no_other_run_from_being_sent(text, database, state):
    """An empty file is what a loss of power left of one that was not synced."""
    bad = Spool.create(state / "spool", HEADER | {"uri": database})
    bad.release()
    (bad.folder / "run.json").write_text(text)
    dead = abandoned(state, database)
    dead.release()
    with log_run(database, "e", "other", key="other", **GIVEN) as run:
        run.log({"a": 1.0}, 1)
    assert spools(state) == [bad.folder, dead.folder]
    done = sync()
    assert (done.delivered, len(done.waiting)) == (1, 1)
    assert str(bad.folder / "run.json") in done.waiting[0]
    assert load_runs(database).height == 2
    assert spools(state) == [bad.folder]


def test_the_end_of_an_old_process_does_not_end_a_run_that_goes_on(database, state):
    old = abandoned(state, database)
    old.append({"status": "FAILED", "reason": "old"})
    run = start_run(database, "e", "x", key="k", spool=state / "other", **GIVEN)
    old.release()
    assert sync().delivered == 1
    assert load_runs(database)["status"].to_list() == ["RUNNING"]
    run.finish()
    assert load_runs(database)["status"].to_list() == ["FINISHED"]


def test_sync_leaves_a_living_run_alone(database, state):
    with log_run(database, "e", "x", **GIVEN):
        assert sync() == sync()
        assert len(spools(state)) == 1
        assert load_runs(database)["status"].to_list() == ["RUNNING"]


def test_a_spool_that_is_removed_while_others_look_is_neither_found_nor_made_again(state):
    """Every run looks, at its start, for what dead processes left, while other runs end beside it."""
    root, ended, found = state / "spool", threading.Event(), []
    root.mkdir(parents=True)

    def look() -> None:
        while not ended.is_set():
            spools, damaged = Spool.abandoned(root)
            found.extend([*spools, *damaged])

    with ThreadPoolExecutor(2) as pool:
        lookers = [pool.submit(look) for _ in range(2)]
        for _ in range(60):
            Spool.create(root, HEADER | {"uri": "sqlite:///none.db"}).remove()
        ended.set()
    assert [looker.result() for looker in lookers] == [None, None]
    assert (found, list(root.iterdir())) == ([], [])

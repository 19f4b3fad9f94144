"""The tracker is away: training goes on, and what it wrote arrives once, in order, with parents and artifacts."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.tracked import history
from tracking.client import connect
from tracking.delivery import Sender
from tracking.errors import TrackingError
from tracking.places import take_lock
from tracking.reading import load_runs
from tracking.runs import start_run, sync
from tracking.spool import Spool

GIVEN: dict[str, Any] = {"params": {}, "tags": {}}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_a_sweep_that_never_saw_the_tracker_arrives_whole(line: Any, server: str, tmp_path: Path) -> None:
    """Parent and child began while it was away: the child finds its parent by key."""
    experiment, spool = f"away/{time.time_ns()}", tmp_path / "spool"
    parent = start_run(line.uri, experiment, "sweep", key="s/sweep", spool=spool, **GIVEN)
    child = start_run(
        line.uri, experiment, "trial", key="s/trial", parent_id=parent.id, parent_key="s/sweep", spool=spool, **GIVEN
    )
    assert (parent.id, child.id) == (None, None)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights").write_text("w")
    for step in range(1, 4):
        child.log({"a": float(step)}, step)
    child.log_artifact(tmp_path / "checkpoint")
    assert not child.finish(patience=5.0)
    assert not parent.finish(patience=5.0)
    for run in (parent, child):
        run._courier.join(60)
    line.up()
    assert sync(spool).delivered == 2
    runs = {row["name"]: row for row in load_runs(server, experiment).to_dicts()}
    assert runs["trial"]["tags.mlflow.parentRunId"] == runs["sweep"]["run_id"]
    assert {row["status"] for row in runs.values()} == {"FINISHED"}
    assert history(server, runs["trial"]["run_id"], "a") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert [item.path for item in connect(server).list_artifacts(runs["trial"]["run_id"], "checkpoint")] == ["checkpoint/weights"]


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_server_that_dies_between_two_calls_gets_every_point_once(
    lost: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call to the tracker fails once: before it arrives, or after it did, so that nobody knows that it did."""
    from tracking import delivery

    real, failed = delivery.connect, set[str]()

    class Dying:
        def __init__(self, client: Any) -> None:
            self.client = client

        def __getattr__(self, name: str) -> Any:
            method = getattr(self.client, name)

            def call(*args: Any, **given: Any) -> Any:
                what = f"{name}{str(args)[:300]}{given}" if name != "create_run" else name
                answer = method(*args, **given) if what in failed or lost == "answer" else None
                if what in failed:
                    return answer
                failed.add(what)
                raise ConnectionError("the server died")

            return call

    monkeypatch.setattr(delivery, "connect", lambda uri: Dying(real(uri)))
    (tmp_path / "weights").write_text("w")
    header = {"uri": database, "experiment": "e", "name": "x", "key": "k", "params": {"p": "1"}, "tags": {"t": "1"}}
    spool = Spool.create(tmp_path / "spool", header | {"parent_id": None, "start_time": 1})
    for step in range(1, 4):
        spool.append({"metrics": {"a": float(step), "b": -1.0}, "step": step})
    spool.append({"artifact": spool.keep(tmp_path / "weights", "weights"), "folder": ""})
    spool.append({"status": "FINISHED", "reason": ""})
    spool.release()
    for _ in range(60):
        if sync(tmp_path / "spool").delivered:
            break
    assert len(failed) > 5
    row = load_runs(database, "e").row(0, named=True)
    assert load_runs(database, "e").height == 1
    assert (row["status"], row["params.p"], row["tags.t"]) == ("FINISHED", "1", "1")
    assert history(database, row["run_id"], "a") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert [item.path for item in real(database).list_artifacts(row["run_id"])] == ["weights"]


def test_a_full_disk_tears_no_line_and_swallows_no_later_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = {"uri": "http://127.0.0.1:1", "experiment": "e", "name": "x", "key": "k", "params": {}, "tags": {}}
    spool = Spool.create(tmp_path, header | {"parent_id": None, "start_time": 1})
    spool.append({"metrics": {"a": 1.0}, "step": 1})

    class Full:
        """Takes ten bytes of what it is given, as a disk does that fills up."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, line: bytes) -> int:
            return int(self.file.write(line[:10]))

    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *args, **given: Full(opened(path, *args, **given)))
        with pytest.raises(OSError, match="No space left"):
            spool.append({"metrics": {"a": 2.0}, "step": 2})
    spool.append({"metrics": {"a": 3.0}, "step": 3})
    assert [event["step"] for _, event in spool.pending()] == [1, 3]
    spool.release()


def test_a_clock_that_is_set_back_changes_no_order(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour back between two points, and between a process and the one that goes on with its run."""
    from tracking import spool as spools

    now = 1_800_000_000_000
    monkeypatch.setattr(spools, "now_ms", lambda: now)
    header = {"uri": database, "experiment": "e", "name": "x", "key": "k", "params": {}, "tags": {}, "parent_id": None}
    first = Spool.create(tmp_path / "spool", header | {"start_time": now})
    Sender(first).open(live=True)
    first.append({"metrics": {"a": 1.0}, "step": 1})
    now -= 3_600_000
    first.append({"metrics": {"a": 2.0}, "step": 2})
    second = Spool.create(tmp_path / "spool", header | {"start_time": now})
    Sender(second).open(live=True)
    second.append({"metrics": {"a": 3.0}, "step": 3})
    second.append({"status": "FINISHED", "reason": ""})
    first.release()
    second.release()
    found, _ = Spool.abandoned(tmp_path / "spool")
    assert [spool.name for spool in found] == [first.name, second.name]
    for spool in found:
        spool.release()
    assert sync(tmp_path / "spool").delivered == 2
    row = load_runs(database, "e").row(0, named=True)
    points = sorted(connect(database).get_metric_history(row["run_id"], "a"), key=lambda point: point.timestamp)
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert (row["metrics.a"], row["status"]) == (3.0, "FINISHED")


def test_a_run_whose_turn_does_not_come_spools_and_is_made_later(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen trials begin at once on one sqlite database, and each is made under a lock: the last ones must not fail for it."""
    from tracking import client

    monkeypatch.setattr(client, "CREATION", 0.2)
    path = Path(database.removeprefix("sqlite:///"))
    connect(database)
    others = take_lock(path.with_name(f"{path.name}.lock"))
    assert others is not None
    run = start_run(database, "e", "x", spool=tmp_path / "spool", **GIVEN)
    run.log({"a": 1.0}, 1)
    assert run.id is None
    others.close()
    assert run.finish(patience=60)
    assert load_runs(database, "e")["metrics.a"].to_list() == [1.0]


def test_the_trainer_waits_for_nobody(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that takes a call and never answers: nothing that training does waits for it."""
    never = threading.Event()
    monkeypatch.setattr(Sender, "deliver", lambda self: never.wait(60))
    run = start_run(database, "e", "x", spool=tmp_path / "spool", **GIVEN)
    done = threading.Event()

    def train() -> None:
        for step in range(100):
            run.log({f"m{number}": 1.0 for number in range(30)}, step)
        done.set()

    threading.Thread(target=train, daemon=True).start()
    assert done.wait(30)
    (folder,) = (tmp_path / "spool").iterdir()
    assert len([json.loads(text) for text in (folder / "events.jsonl").read_text().splitlines()]) == 100
    never.set()


def test_a_late_process_that_opens_the_run_after_its_successor_does_not_keep_it_from_ending(
    database: str, tmp_path: Path
) -> None:
    """It had looked at its right to write just before it lost it: the run then bears its name, and ends all the same."""
    experiment, spool = f"late/{time.time_ns()}", tmp_path / "spool"
    writer = start_run(database, experiment, "t", key="s/t", spool=spool, allowed=lambda: True, **GIVEN)
    looks = iter([True])
    late = start_run(database, experiment, "t", key="s/t", spool=spool, allowed=lambda: next(looks, False), **GIVEN)
    late.log({"a": 9.0}, 1)
    assert late.finish()
    assert late.superseded
    writer.log({"a": 1.0}, 1)
    assert writer.finish()
    row = load_runs(database, experiment).row(0, named=True)
    assert (row["status"], row["metrics.a"]) == ("FINISHED", 1.0)
    with pytest.raises(TrackingError, match="another process has taken it over"):
        start_run(database, experiment, "t", key="s/t", spool=spool, allowed=lambda: False, **GIVEN)
    assert load_runs(database, experiment)["status"].to_list() == ["FINISHED"]
    assert list(spool.glob("*/run.json")) == []

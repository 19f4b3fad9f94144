from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tracking.tracked import GIVEN, history, spools
from tracking.client import Unreachable, connect, ensure_experiment
from tracking.delivery import Sender
from tracking.errors import TrackingError
from tracking.runs import find_run, load_runs, log_run, start_run, sync


def test_everything_arrives(uri, state, tmp_path):
    experiment = f"everything/{time.time_ns()}"
    (tmp_path / "made" / "deep").mkdir(parents=True)
    (tmp_path / "made" / "deep" / "x.bin").write_bytes(b"\0\1")
    (tmp_path / "one.txt").write_text("one")
    with (
        log_run(uri, experiment, "sweep", params={}, tags={}) as parent,
        log_run(uri, experiment, "trial", parent_id=parent.id, **GIVEN) as run,
    ):
        for step in (1, 2, 3):
            run.log({"val/recall_at_1": 0.1 * step, "train/nan": math.nan, "train/inf": math.inf}, step)
        run.log_artifact(tmp_path / "made", "checkpoint")
        run.log_artifact(tmp_path / "one.txt")
        (tmp_path / "one.txt").write_text("changed after it was logged")
        run.log_text("a: 1\n", "sub/config.yaml")
        run.set_tags({"dmkd.protocol": "abc"})
    row = {item["name"]: item for item in load_runs(uri, experiment).to_dicts()}["trial"]
    assert (row["run_id"], row["status"], row["tags.mlflow.parentRunId"]) == (run.id, "FINISHED", parent.id)
    assert (row["params.method.temperature"], row["tags.dmkd.seed"], row["tags.dmkd.protocol"]) == ("0.5", "0", "abc")
    assert row["end_time"] is not None
    assert history(uri, run.id, "val/recall_at_1") == [(step, pytest.approx(0.1 * step)) for step in (1, 2, 3)]
    assert math.isnan(row["metrics.train/nan"])
    assert row["metrics.train/inf"] == math.inf
    folder = Path(connect(uri).download_artifacts(run.id, "", str(tmp_path)))
    assert (folder / "checkpoint/deep/x.bin").read_bytes() == b"\0\1"
    assert (folder / "one.txt").read_text() == "one"
    assert (folder / "sub/config.yaml").read_text() == "a: 1\n"
    assert spools(state) == []


def test_the_same_key_continues_the_same_run_and_repeats_nothing(uri, caplog):
    experiment = f"continue/{time.time_ns()}"
    with log_run(uri, experiment, "trial", key="t/1", **GIVEN) as first:
        first.log({"val/a": 0.1}, 1)
        first.log({"val/a": 0.2}, 2)
    changed = {"params": {"seed": 1, "new": 2}, "tags": {"dmkd.seed": 7}}
    with log_run(uri, experiment, "trial", key="t/1", **changed) as second:
        assert connect(uri).get_run(second.id).info.status == "RUNNING"
        second.log({"val/a": 0.9, "val/b": 0.5}, 2)  # resumed from a checkpoint before step 2: it was logged already
        second.log({"val/a": 0.3}, 3)
    assert second.id == first.id
    assert history(uri, first.id, "val/a") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert history(uri, first.id, "val/b") == [(2, 0.5)]
    row = load_runs(uri, experiment).row(0, named=True)
    assert (row["params.seed"], row["params.new"], row["tags.dmkd.seed"], row["status"]) == ("0", "2", "7", "FINISHED")
    assert "seed=0 (now 1)" in caplog.text
    assert find_run(uri, experiment, "t/1") == (first.id, "FINISHED")
    assert find_run(uri, experiment, "t/2") is None
    assert find_run(uri, "no such", "t/1") is None


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad\nnews"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "KILLED")]
)
def test_no_way_out_of_the_block_leaves_it_running(database, error, status):
    with pytest.raises(type(error)), log_run(database, "e", "x", **GIVEN) as run:
        raise error
    row = load_runs(database).row(0, named=True)
    assert (row["status"], row["run_id"]) == (status, run.id)
    assert row["tags.dmkd.status_reason"] == f"{type(error).__name__}: {' '.join(str(error).split())}".strip()


def test_a_pruned_run_says_so_and_nothing_comes_after_the_end(database):
    with log_run(database, "e", "x", **GIVEN) as run:
        assert run.finish("KILLED", "pruned at epoch 3")
        assert run.finish("FAILED", "never written")
        with pytest.raises(TrackingError, match="is finished"):
            run.log({"a": 1.0}, 1)
        with pytest.raises(TrackingError, match="FINISHED, FAILED, KILLED"):
            run.finish("DONE")
    row = load_runs(database).row(0, named=True)
    assert (row["status"], row["tags.dmkd.status_reason"]) == ("KILLED", "pruned at epoch 3")


def test_a_continued_run_forgets_why_it_had_ended(database):
    with log_run(database, "e", "x", key="k", **GIVEN) as run:
        run.finish("FAILED", "the node died")
    with log_run(database, "e", "x", key="k", **GIVEN):
        pass
    row = load_runs(database).row(0, named=True)
    assert (row["status"], row["tags.dmkd.status_reason"]) == ("FINISHED", "")


def test_more_and_longer_params_than_a_batch_takes(database):
    params = {f"p.{number}": number for number in range(730)} | {"long": "ä" * 9000, "k" * 300: 1}
    with log_run(database, "e", "x", params=params, tags={f"t{number}": number for number in range(130)}) as run:
        pass
    stored = connect(database).get_run(run.id).data
    assert len(stored.params) == 732
    assert stored.params["p.729"] == "729"
    assert stored.params["long"].endswith("(cut; see params_long.json)")
    assert sum(key.startswith("t") for key in stored.tags) == 130
    path = connect(database).download_artifacts(run.id, "params_long.json")
    assert json.loads(Path(path).read_text()) == {"long": "ä" * 9000, "k" * 300: "1"}


def test_more_points_than_a_batch_takes(database):
    with log_run(database, "e", "x", **GIVEN) as run:
        run.log({f"m/{number}": float(number) for number in range(1500)}, 1)
        for step in range(2, 200):
            run.log({f"n/{number}": float(step) for number in range(20)}, step)
    data = connect(database).get_run(run.id).data
    assert data.metrics["m/1499"] == 1499.0
    assert data.metrics["n/19"] == 199.0
    assert len(history(database, run.id, "n/7")) == 198


@pytest.mark.parametrize("name", ["", "/a", "a//b", "a/../b", "a?b", "x" * 251])
def test_a_name_that_mlflow_would_refuse_is_refused_at_once(database, name):
    with log_run(database, "e", "x", **GIVEN) as run, pytest.raises(TrackingError, match="metric name"):
        run.log({name: 1.0}, 1)


@pytest.mark.parametrize("folder", ["/etc", "../up", "a/../../b", "a\\b"])
def test_an_artifact_never_leaves_its_run(database, folder, tmp_path):
    (tmp_path / "f").write_text("x")
    with log_run(database, "e", "x", **GIVEN) as run:
        with pytest.raises(TrackingError, match="stays inside"):
            run.log_artifact(tmp_path / "f", folder)
        with pytest.raises(TrackingError, match="no such file"):
            run.log_artifact(tmp_path / "missing")


def test_a_bad_key_and_a_deleted_experiment_are_refused(database):
    with pytest.raises(TrackingError, match="run key"):
        start_run(database, "e", "x", key="it's", **GIVEN)
    connect(database).delete_experiment(ensure_experiment(database, "gone"))
    with pytest.raises(TrackingError, match="is deleted"):
        start_run(database, "gone", "x", **GIVEN)


def test_what_the_server_refuses_is_set_aside_and_the_rest_goes_on(database, state):
    with log_run(database, "e", "x", **GIVEN) as run:
        run.log({"a": 1.0}, 1)
        run._append({"metrics": {"bad?name": 1.0}, "step": 1})
        run.log({"b": 2.0}, 1)
    row = load_runs(database).row(0, named=True)
    assert (row["metrics.a"], row["metrics.b"], row["status"]) == (1.0, 2.0, "FINISHED")
    (left,) = spools(state)
    assert "bad?name" in (left / "rejected.jsonl").read_text()
    assert sync().delivered == 0


def test_artifacts_lie_beside_the_database_whatever_the_working_folder(database, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with log_run("sqlite:///../mlflow.db", "a/b c", "x", **GIVEN) as run:
        run.log_text("x", "x.txt")
    assert (tmp_path / "mlartifacts/a-b-c" / run.id / "artifacts/x.txt").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_of_two_racing_creators_both_end_in_the_earlier_run(server):
    """The other creator's run appears between our search and our creation."""
    experiment = f"race/{time.time_ns()}"
    place = ensure_experiment(server, experiment)
    client = connect(server)
    header = {
        "uri": server,
        "experiment": experiment,
        "name": "x",
        "key": "k",
        "params": {},
        "tags": {},
        "parent_id": None,
        "start_time": 5000,
    }
    made = []

    class Racing:
        def __getattr__(self, name):
            return getattr(client, name)

        def create_run(self, *args, **given):
            made.append(client.create_run(place, start_time=4000, tags={"dmkd.run_key": "k"}).info.run_id)
            return client.create_run(*args, **given)

    class Header:
        name = "spool"

    spool = Header()
    spool.header = header
    sender = Sender(spool)
    sender.client = Racing()
    run, ours = sender._find_or_make()
    assert (run.info.run_id, ours) == (made[0], False)
    assert load_runs(server, experiment)["run_id"].to_list() == made


def test_an_unreachable_server_is_told_apart(line):
    with pytest.raises(Unreachable, match="does not answer"):
        ensure_experiment(line.uri, "x")


def test_another_database_wants_to_know_where_artifacts_go(monkeypatch):
    from tracking.client import _artifact_location

    with pytest.raises(TrackingError, match="MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        _artifact_location("postgresql://h/db", "x")
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/")
    assert _artifact_location("postgresql://h/db", "a b") == "s3://bucket/a-b"


@pytest.mark.parametrize("processes", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_many_processes_on_a_fresh_database(processes, tmp_path):
    """All migrate at once, all want the same parent run, each writes its own child; what one's patience ends before, waits."""
    code = (
        "import sys\nfrom tracking.runs import start_run\nuri, number = sys.argv[1:]\n"
        "parent = start_run(uri, 'e', 'parent', params={}, tags={}, key='parent')\n"
        "above = {'parent_id': parent.id, 'parent_key': 'parent'}\n"
        "run = start_run(uri, 'e', number, params={'n': number}, tags={}, key=number, **above)\n"
        "for step in range(20):\n    run.log({'a': float(number), 'b': step}, step)\n"
        "run.finish()\nparent.finish()\n"
    )
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    environment = os.environ | {"DMKD_STATE": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", code, uri, str(number)], stderr=subprocess.PIPE, text=True, env=environment)
        for number in range(processes)
    ]
    errors = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, errors
    assert sync(tmp_path / "state" / "spool").waiting == ()
    frame = load_runs(uri, "e")
    assert sorted(frame["name"]) == sorted(["parent", *map(str, range(processes))])
    parent = frame.filter(frame["name"] == "parent").row(0, named=True)["run_id"]
    for row in frame.filter(frame["name"] != "parent").to_dicts():
        assert (row["metrics.a"], row["metrics.b"]) == (float(row["name"]), 19.0)
        assert row["tags.mlflow.parentRunId"] == parent
        assert row["status"] == "FINISHED"
    assert not list((tmp_path / "state" / "spool").glob("*"))


def parent_of(uri: str, key: str) -> str | None:
    row = next(row for row in load_runs(uri, "late").to_dicts() if row["tags.dmkd.run_key"] == key)
    return row.get("tags.mlflow.parentRunId")


def test_a_child_that_came_first_hangs_under_its_parent_once_that_is_there(database):
    first = start_run(database, "late", "child", params={}, tags={}, parent_key="above", key="first")
    other = start_run(database, "late", "other", params={}, tags={}, key="other")
    above = start_run(database, "late", "parent", params={}, tags={}, key="above")
    assert parent_of(database, "first") == above.id
    for run in (first, other, above):
        assert run.finish()
    assert parent_of(database, "first") == above.id
    assert parent_of(database, "other") is parent_of(database, "above") is None


def test_a_parent_that_was_made_between_a_childs_look_and_its_making_is_found_at_its_end(database):
    child = start_run(database, "late", "child", params={}, tags={}, parent_key="above", key="child")
    client, experiment = connect(database), ensure_experiment(database, "late")
    made = client.create_run(experiment, tags={"dmkd.run_key": "above"})  # by a process that saw no child yet
    assert parent_of(database, "child") is None
    assert child.finish()
    assert parent_of(database, "child") == made.info.run_id

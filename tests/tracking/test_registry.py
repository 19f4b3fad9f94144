"""Versions, their alias, the journal, and rows as REFs."""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.tracking.checkpoints import checkpoint, logged, spoil_weights
from tests.tracking.made_runs import run, table
from tracking import board
from tracking.client import connect
from tracking.errors import TrackingError
from tracking.leaderboard import leaderboard
from tracking.registry import Promotion, deployed, describe, journal, promote, pull, rollback
from tracking.runs import load_runs
from tracking.served import CODE_HASH, LOADER, place_of


def test_promote_points_an_alias_and_rollback_takes_it_back(uri, tmp_path):
    runs = [logged(uri, checkpoint(tmp_path / f"made{value}", value)) for value in (1.0, 2.0, 3.0)]
    name = f"model {tmp_path.name}"
    ref = f"models:/{name}@champion"
    assert [promote(run_id, name, uri=uri) for run_id in [*runs[:2], runs[1], runs[2]]] == [1, 2, 2, 3]  # a run is a version once

    def champion() -> float:
        return float(load_file(pull(ref, tmp_path / "to", uri) / "weights.safetensors")["w"][0, 0])

    assert champion() == 3.0
    assert (rollback(name, uri=uri), champion()) == (2, 2.0)
    assert (rollback(name, uri=uri), champion()) == (1, 1.0)
    with pytest.raises(TrackingError, match="no earlier version"):
        rollback(name, uri=uri)
    assert (promote(runs[2], name, uri=uri), champion()) == (3, 3.0)
    assert (rollback(name, uri=uri), champion()) == (1, 1.0)
    acts = [(entry["act"], entry["version"]) for entry in journal(name, uri=uri)]
    assert acts == [
        *zip(["promote"] * 4, [1, 2, 2, 3], strict=True),
        ("rollback", 2),
        ("rollback", 1),
        ("promote", 3),
        ("rollback", 1),
    ]
    assert connect(uri).get_model_version(name, "2").run_id == runs[1]
    assert load_file(pull(f"models:/{name}/2", tmp_path / "two", uri) / "weights.safetensors")["w"][0, 0] == 2.0


def test_nothing_spoiled_is_promoted(database, tmp_path):
    source = checkpoint(tmp_path / "made")
    spoil_weights(source)
    run_id = logged(database, source)
    with pytest.raises(TrackingError, match="damaged or altered"):
        promote(run_id, "m", uri=database)
    with pytest.raises(TrackingError, match="refused"):
        journal("m", uri=database)
    with pytest.raises(TrackingError, match="model name"):
        promote(run_id, "it's", uri=database)


def test_a_row_is_pulled_by_its_id_and_by_its_number_until_the_board_changes(database, tmp_path):
    logged(database, checkpoint(tmp_path / "one", 1.0), row="aaaaaaaa1111", val=0.5)
    logged(database, checkpoint(tmp_path / "two", 2.0), row="bbbbbbbb1111", val=0.7)
    question = {"experiment": "e", "select_by": "val/recall_at_1", "report": "test/recall_at_1", "group_by": "configuration"}
    with pytest.raises(TrackingError, match="there is none"):
        pull("1", tmp_path / "to", database)
    frame = leaderboard(load_runs(database, "e"))
    board.remember(frame, database, **question)

    def pulled(ref: str) -> float:
        return float(load_file(pull(ref, tmp_path / "to", database) / "weights.safetensors")["w"][0, 0])

    assert [pulled("1"), pulled("2"), pulled(frame["id"][1]), pulled(frame["id"][1][:6])] == [2.0, 1.0, 1.0, 1.0]
    with pytest.raises(TrackingError, match="rows 1 to 2"):
        pulled("3")
    with pytest.raises(TrackingError, match="was of sqlite"):
        pull("1", tmp_path / "to", f"sqlite:///{tmp_path}/other.db")
    logged(database, tmp_path / "one", row="cccccccc1111", val=0.6)
    with pytest.raises(TrackingError, match="has changed"):
        pulled("1")
    assert pulled(frame["id"][0]) == 2.0


def test_a_board_remembers_rows_not_shared_ranks(database):
    """Outcomes reorder rows that share rank 1; the number still means the row that was printed."""
    frame = leaderboard(table(run("aaaaaaaa1111", val=0.3), run("bbbbbbbb1111", val=0.2)))
    assert board._state(frame) == board._state(frame.reverse())


def test_a_number_means_the_printed_experiments_own_run_where_two_have_the_same_configuration(database, tmp_path):
    first = checkpoint(tmp_path / "first", 1.0)
    second = checkpoint(tmp_path / "second", 2.0)
    logged(database, first, experiment="a")
    logged(database, second, experiment="b")
    for experiment, value in (("a", 1.0), ("b", 2.0)):
        frame = leaderboard(load_runs(database, experiment))
        question = {"select_by": "val/recall_at_1", "report": "test/recall_at_1", "group_by": "configuration"}
        board.remember(frame, database, experiment=experiment, **question)
        pulled = pull("1", tmp_path / experiment, database)
        assert load_file(pulled / "weights.safetensors")["w"][0, 0] == value
    with pytest.raises(TrackingError, match="several rows"):
        pull(frame["id"][0], tmp_path / "either", database)


def test_the_journal_says_who_when_from_to_and_what_the_gate_said(uri, tmp_path):
    runs = [logged(uri, checkpoint(tmp_path / f"made{value}", value)) for value in (1.0, 2.0)]
    name = f"model {tmp_path.name}"
    assert deployed(name, uri=uri) is None
    gallery = {"space": "abc", "run_id": runs[0], "place": "checkpoint"}
    promote(runs[0], name, uri=uri, promotion=Promotion(gallery=gallery, stamps={"dmkd.dim": "2"}))
    before = time.time() * 1000 - 1
    told = Promotion({"verdict": "worse by 3 points", "passed": False}, {"test/map": 0.5}, "a demo", {"dmkd.dim": "2"}, gallery)
    promote(runs[1], name, uri=uri, promotion=told)
    rollback(name, uri=uri)
    first, second, third = journal(name, uri=uri)
    assert (first["from"], first["to"], second["from"], second["to"], third["from"], third["to"]) == (None, 1, 1, 2, 2, 1)
    assert second["forced"] == "a demo"
    assert second["gate"]["verdict"] == "worse by 3 points"
    assert second["metrics"] == {"test/map": 0.5}
    assert before <= second["time"] <= third["time"] <= time.time() * 1000 + 1
    assert second["who"] == f"{getpass.getuser()}@{socket.gethostname()}"
    assert third["gallery"] == gallery
    assert deployed(name, uri=uri)["version"] == 1
    assert connect(uri).get_model_version(name, "1").tags["dmkd.dim"] == "2"
    assert "worse by 3 points; forced: a demo" in describe(second)


def test_a_journal_that_would_not_fit_a_database_forgets_its_numbers_first(database, tmp_path):
    run_id = logged(database, checkpoint(tmp_path / "made"))
    promote(run_id, "m", uri=database, promotion=Promotion(metrics={f"test/metric_{number}": 0.5 for number in range(500)}))
    entry = journal("m", uri=database)[0]
    assert entry["metrics"] == "too long for the journal"
    tags = connect(database).get_registered_model("m").tags
    assert max(map(len, tags.values())) <= 5000


def test_a_journal_of_before_there_were_gates_is_still_read(database, tmp_path):
    run_id = logged(database, checkpoint(tmp_path / "made"))
    promote(run_id, "m", uri=database)
    old = [{"act": "promote", "version": 1, "run_id": run_id, "time": 5}]
    connect(database).set_registered_model_tag("m", "dmkd.history.champion", json.dumps(old))
    first = journal("m", uri=database)[0]
    assert first["time"] == 5
    assert "unknown" in describe(first)


def pyfunc(folder: Path, code: str) -> tuple[Path, str]:
    """A pyfunc model as promotion writes it, whose code is `code`, and the stamp of what it runs."""
    (folder / "code").mkdir(parents=True)
    (folder / "serve.py").write_text(code)
    (folder / "code" / "embed.py").write_text("")
    flavor = {"loader_module": LOADER, "model_code_path": "serve.py", "artifacts": {}}
    (folder / "MLmodel").write_text(json.dumps({"flavors": {"python_function": flavor}}))
    return folder, hashlib.sha256(code.encode()).hexdigest()


def test_one_run_under_two_names_has_two_pyfunc_models(uri, tmp_path):
    """What is promoted later, by a later dmkd, does not spoil what was promoted under another name before."""
    run_id = logged(uri, checkpoint(tmp_path / "made"))
    mine, theirs = (f"m {time.time_ns()}", f"n{time.time_ns()}")
    for number, name in enumerate((mine, theirs, mine)):
        folder, stamp = pyfunc(tmp_path / f"served{number}", f"code = {number}")
        promote(run_id, name, uri=uri, promotion=Promotion(served=folder, stamps={CODE_HASH: stamp}))
    for name in (mine, theirs):
        assert (pull(f"models:/{name}@champion", tmp_path / name, uri) / "weights.safetensors").is_file()
    client = connect(uri)
    sources = {str(client.get_model_version(name, "1").source) for name in (mine, theirs)}
    assert len(sources) == 2
    # Another name's code in its place is refused still.
    client.log_artifact(run_id, str(tmp_path / "served1" / "serve.py"), place_of(mine))
    with pytest.raises(TrackingError, match="not what was promoted"):
        pull(f"models:/{mine}@champion", tmp_path / "again", uri)


def test_a_version_whose_pyfunc_model_lies_where_it_used_to_is_renewed_there(database, tmp_path):
    run_id = logged(database, checkpoint(tmp_path / "made"))
    client = connect(database)
    client.create_registered_model("m")
    client.create_model_version("m", f"{client.get_run(run_id).info.artifact_uri}/pyfunc", run_id)
    folder, stamp = pyfunc(tmp_path / "served", "code = 1")
    assert promote(run_id, "m", uri=database, promotion=Promotion(served=folder, stamps={CODE_HASH: stamp})) == 1
    assert (tmp_path / "mlartifacts" / "e" / run_id / "artifacts" / "pyfunc" / "serve.py").read_text() == "code = 1"
    assert pull("models:/m@champion", tmp_path / "to", database)

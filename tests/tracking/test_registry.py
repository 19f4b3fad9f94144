from __future__ import annotations

import getpass
import hashlib
import json
import pickle
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.tracking.test_leaderboard import run, table
from tracking import board
from tracking.client import Unreachable, connect
from tracking.errors import TrackingError
from tracking.install import install
from tracking.leaderboard import leaderboard
from tracking.places import take_lock
from tracking.registry import Promotion, deployed, describe, find, journal, promote, pull, rollback
from tracking.runs import load_runs, log_run
from tracking.served import CODE_HASH, LOADER, place_of


def checkpoint(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    save_file({"w": np.full((3, 2), value, np.float32)}, folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps({"format": "dmkd-model-1", "checksums": {"weights.safetensors": digest}}))
    return folder


def logged(uri: str, folder: Path, *, name: str = "x", val: float = 0.5, row: str = "aaaaaaaa1111", experiment: str = "e") -> str:
    tags = {"dmkd.config_hash": row, "dmkd.protocol": "p1", "dmkd.method": "yu", "dmkd.stage": "search", "dmkd.seed": 0}
    with log_run(uri, experiment, name, params={}, tags=tags) as written:
        written.log({"val/recall_at_1": val}, 1)
        written.log_artifact(folder, "checkpoint")
        written.log_text("seed: 0\n", "config.yaml")
    assert written.id
    return written.id


@pytest.fixture(params=["database", "server"])
def uri(request) -> str:
    return str(request.getfixturevalue(request.param))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_pull_from_a_run_and_from_a_folder_gives_the_same_bytes(uri, tmp_path):
    source = checkpoint(tmp_path / "made")
    (source / "sub").mkdir()
    (source / "sub" / "README.md").write_text("card")
    run_id = logged(uri, source)
    first = pull(f"runs:/{run_id}", tmp_path / "a" / "first", uri)
    assert names(first) == ["config.yaml", "model.json", "pulled.json", "sub/README.md", "weights.safetensors"]
    second = pull(str(first), tmp_path / "second", uri)
    for folder in (first, second):
        np.testing.assert_array_equal(load_file(folder / "weights.safetensors")["w"], np.ones((3, 2)))
        assert (folder / "config.yaml").read_text() == "seed: 0\n"
    pull(str(first / "model.json"), tmp_path / "third", uri)
    assert names(tmp_path / "third") == names(first)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_earlier_pull_is_replaced_and_nothing_else_is(tmp_path):
    old, new = checkpoint(tmp_path / "old", 1.0), checkpoint(tmp_path / "new", 2.0)
    pull(str(old), tmp_path / "to")
    (tmp_path / "to" / "stale.txt").write_text("x")
    pull(str(new), tmp_path / "to")
    assert load_file(tmp_path / "to" / "weights.safetensors")["w"][0, 0] == 2.0
    assert "stale.txt" not in names(tmp_path / "to")
    for folder in (old, tmp_path / "mine"):  # a checkpoint that was not pulled, and a folder with somebody's files
        folder.mkdir(exist_ok=True)
        (folder / "precious.txt").write_text("x")
        with pytest.raises(TrackingError, match="holds other files"):
            pull(str(new), folder)
        assert (folder / "precious.txt").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(TrackingError, match="not a folder"):
        pull(str(new), tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert names(pull(str(new), tmp_path / "empty"))


def test_what_a_killed_pull_left_is_cleared_and_a_living_one_is_not(tmp_path):
    source = checkpoint(tmp_path / "made")
    dead, living = tmp_path / ".to.partial-dead", tmp_path / ".to.partial-live"
    for folder in (dead, living):
        folder.mkdir()
        (folder / "weights.safetensors").write_text("half")
    lock = take_lock(living.with_name(f"{living.name}.lock"))
    pull(str(source), tmp_path / "to")
    assert (dead.exists(), living.exists()) == (False, True)
    assert lock
    lock.close()


def spoil_weights(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)


def pickle_as_weights(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(pickle.dumps({"a": list(range(100))}))
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps({"checksums": {"weights.safetensors": digest}}))


def outside(folder: Path) -> None:
    (folder.parent / "secret.txt").write_text("x")
    (folder / "model.json").write_text(json.dumps({"checksums": {"../secret.txt": hashlib.sha256(b"x").hexdigest()}}))


SPOILED = {
    "damaged or altered": spoil_weights,
    "is missing": lambda folder: (folder / "weights.safetensors").unlink(),
    "never a pickle": lambda folder: (folder / "optimizer.pt").write_bytes(b"x"),
    "not a safetensors file": pickle_as_weights,
    "no checksum": lambda folder: (folder / "more.safetensors").write_bytes(b"x"),
    "is a link": lambda folder: (folder / "x.txt").symlink_to("/etc/hostname"),
    "is damaged or has no 'checksums'": lambda folder: (folder / "model.json").write_text("{"),
    "has no 'checksums'": lambda folder: (folder / "model.json").write_text("{}"),
    "no model.json": lambda folder: (folder / "model.json").unlink(),
    "secret.txt is missing": outside,
}


@pytest.mark.parametrize("text", SPOILED)
def test_a_checkpoint_that_cannot_be_believed_is_refused_and_leaves_nothing(text, tmp_path):
    source = checkpoint(tmp_path / "made")
    SPOILED[text](source)
    with pytest.raises(TrackingError, match=text):
        pull(str(source), tmp_path / "out" / "to")
    assert list((tmp_path / "out").glob("*")) == [] if (tmp_path / "out").exists() else True


def test_a_link_among_a_runs_artifacts_is_refused(database, tmp_path):
    run_id = logged(database, checkpoint(tmp_path / "made"))
    folder = tmp_path / "mlartifacts" / "e" / run_id / "artifacts"
    (folder / "checkpoint" / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(TrackingError, match="is a link"):
        pull(f"runs:/{run_id}", tmp_path / "to", database)


def test_a_failed_pull_leaves_the_earlier_one(tmp_path):
    pull(str(checkpoint(tmp_path / "made")), tmp_path / "to")
    broken = checkpoint(tmp_path / "broken", 5.0)
    spoil_weights(broken)
    with pytest.raises(TrackingError, match="damaged or altered"):
        pull(str(broken), tmp_path / "to")
    assert load_file(tmp_path / "to" / "weights.safetensors")["w"][0, 0] == 1.0


@pytest.mark.parametrize("path", ["../evil.txt", "/abs.txt", "a\\b.txt", "c:x.txt"])
def test_a_server_cannot_write_outside(path, tmp_path):
    from tracking.checkpoints import Source

    def copy(*_: object) -> None:
        pytest.fail("fetched before it was refused")

    with pytest.raises(TrackingError, match="does not stay in its folder"):
        install(Source("s", ("model.json", path), copy), tmp_path / "to")


@pytest.mark.parametrize("ref", ["nonsense!", "models:/x", "runs:/", "aaaaaa99"])
def test_a_ref_that_names_nothing_is_one_clear_line(ref, database, tmp_path):
    with pytest.raises(TrackingError) as caught:
        pull(ref, tmp_path / "to", database)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "to").exists()


def test_a_run_without_a_checkpoint(uri, tmp_path):
    with log_run(uri, "e", "x", params={}, tags={}) as written:
        pass
    with pytest.raises(TrackingError, match=r"no model\.json there"):
        pull(f"runs:/{written.id}", tmp_path / "to", uri)


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


def test_a_pull_goes_on_where_the_tracker_went_away(uri, tmp_path, monkeypatch):
    source = checkpoint(tmp_path / "made")
    save_file({"v": np.ones(4, np.float32)}, source / "more.safetensors")
    told = json.loads((source / "model.json").read_text())
    told["checksums"]["more.safetensors"] = hashlib.sha256((source / "more.safetensors").read_bytes()).hexdigest()
    (source / "model.json").write_text(json.dumps(told))
    run_id = logged(uri, source)
    found = find(f"runs:/{run_id}", uri)
    asked: list[str] = []

    def copy(path: str, folder: Path) -> None:
        asked.append(path)
        if path == "weights.safetensors" and len(asked) < 5:
            raise Unreachable("away")
        found.copy(path, folder)

    with pytest.raises(Unreachable):
        install(replace(found, copy=copy), tmp_path / "to")
    assert not (tmp_path / "to").exists()
    left = [path for path in tmp_path.iterdir() if path.name.startswith(".to.partial-")]
    assert len(left) == 1
    first = len(asked)
    assert "more.safetensors" in asked
    (left[0] / "planted.txt").write_text("x")
    install(replace(found, copy=copy), tmp_path / "to")
    assert "more.safetensors" not in asked[first:]  # it was there, whole
    assert names(tmp_path / "to") == ["config.yaml", "model.json", "more.safetensors", "pulled.json", "weights.safetensors"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_was_half_fetched_is_not_taken_for_whole(database, tmp_path):
    run_id = logged(database, checkpoint(tmp_path / "made"))
    found = find(f"runs:/{run_id}", database)

    def copy(path: str, folder: Path) -> None:
        found.copy(path, folder)
        if path == "weights.safetensors":
            (folder / path).write_bytes((folder / path).read_bytes()[:-3])
            raise Unreachable("away")

    with pytest.raises(Unreachable):
        install(replace(found, copy=copy), tmp_path / "to")
    pull(f"runs:/{run_id}", tmp_path / "to", database)
    np.testing.assert_array_equal(load_file(tmp_path / "to" / "weights.safetensors")["w"], np.ones((3, 2)))


def test_what_finishes_a_pull_is_part_of_the_whole(database, tmp_path):
    source = checkpoint(tmp_path / "made")

    def finish(folder: Path) -> None:
        (folder / "program").write_text("x")
        if fails:
            raise ValueError("the program differs")

    fails = True
    with pytest.raises(ValueError, match="differs"):
        pull(str(source), tmp_path / "to", database, finish=finish)
    assert sorted(path.name for path in tmp_path.iterdir() if "to" in path.name) == []
    fails = False
    assert "program" in names(pull(str(source), tmp_path / "to", database, finish=finish))


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

"""What arrives by a pull, and what is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.tracking.checkpoints import checkpoint, logged, spoil_weights
from tracking.client import Unreachable
from tracking.errors import TrackingError
from tracking.install import install
from tracking.places import take_lock
from tracking.registry import find, pull
from tracking.runs import log_run


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

"""An artifact is hostile until proven otherwise: nothing of it is run, nothing is written outside the folder."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.tracking.checkpoints import checkpoint, logged
from tracking.client import connect
from tracking.errors import TrackingError
from tracking.registry import promote, pull
from tracking.served import LOADER, check_mlmodel


class Payload:
    """Unpickled, it leaves a marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return os.system, (f"touch '{self.marker}'",)


def state(folder: Path, **files: bytes) -> None:
    """model.json that vouches for `files` (two underscores are a dot)."""
    sums = {name.replace("__", "."): hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    (folder / "model.json").write_text(json.dumps({"checksums": sums}))


def weights_are_a_pickle(folder: Path, marker: Path) -> None:
    state(folder, weights__safetensors=pickle.dumps(Payload(marker)))


def a_program_beside_the_weights(folder: Path, marker: Path) -> None:
    (folder / "graph.pt2").write_bytes(pickle.dumps(Payload(marker)))


def a_pickle_beside_the_weights(folder: Path, marker: Path) -> None:
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Payload(marker)))


def an_mlmodel_beside_the_weights(folder: Path, marker: Path) -> None:
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.sklearn}}")


def code_beside_the_weights(folder: Path, marker: Path) -> None:
    (folder / "embed.py").write_text(f"open({str(marker)!r}, 'w')")


def a_path_upwards(folder: Path, marker: Path) -> None:
    (folder.parent / "outside.txt").write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    (folder / "model.json").write_text(json.dumps({"checksums": {"../outside.txt": digest}}))


def an_absolute_path(folder: Path, marker: Path) -> None:
    (folder / "model.json").write_text(json.dumps({"checksums": {"/etc/hostname": "0" * 64}}))


def a_link_to_a_file(folder: Path, marker: Path) -> None:
    (folder / "notes.txt").symlink_to("/etc/hostname")


def a_link_to_a_folder(folder: Path, marker: Path) -> None:
    (folder / "sub").symlink_to("/etc")


def a_flipped_bit(folder: Path, marker: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-3] ^= 4
    (folder / "weights.safetensors").write_bytes(content)


def a_flipped_bit_in_the_card(folder: Path, marker: Path) -> None:
    told = json.loads((folder / "model.json").read_text())
    told["sha256"] = hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps(told).replace("dmkd-model-1", "dmkd-model-3"))


ATTACKS: list[Callable[[Path, Path], None]] = [
    weights_are_a_pickle,
    a_program_beside_the_weights,
    a_pickle_beside_the_weights,
    an_mlmodel_beside_the_weights,
    code_beside_the_weights,
    a_path_upwards,
    an_absolute_path,
    a_link_to_a_file,
    a_link_to_a_folder,
    a_flipped_bit,
    a_flipped_bit_in_the_card,
]


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("source", ["folder", "run"])
def test_each_is_refused_and_nothing_is_run_or_written(attack, source, database, tmp_path):
    made, marker = checkpoint(tmp_path / "made"), tmp_path / "marker"
    ref = str(made)
    if source == "run":
        run_id = logged(database, made)
        made, ref = tmp_path / "mlartifacts" / "e" / run_id / "artifacts" / "checkpoint", f"runs:/{run_id}"
    attack(made, marker)
    home = tmp_path / "home"
    home.mkdir()
    before = tree(tmp_path)
    with pytest.raises(TrackingError) as caught:
        pull(ref, home / "to", database)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert tree(tmp_path) - before <= {"mlflow.db.lock"}
    assert tree(home) == set()


def test_the_payload_would_have_worked(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


GOOD = {"loader_module": LOADER, "model_code_path": "serve.py", "artifacts": {"model": {"path": "artifacts/m", "uri": "m"}}}
BAD = {
    "another loader": {"python_function": GOOD | {"loader_module": "mlflow.sklearn"}},
    "a second flavor": {"python_function": GOOD, "sklearn": {"pickled_model": "model.pkl"}},
    "a pickled model": {"python_function": GOOD | {"python_model": "python_model.pkl"}},
    "code elsewhere": {"python_function": GOOD | {"model_code_path": "/tmp/evil.py"}},
    "code above": {"python_function": GOOD | {"model_code_path": "../evil.py"}},
    "helpers elsewhere": {"python_function": GOOD | {"code": "../../code"}},
    "an artifact elsewhere": {"python_function": GOOD | {"artifacts": {"m": {"path": "../../x", "uri": "x"}}}},
    "an address elsewhere": {"python_function": GOOD | {"artifacts": {"m": {"path": "x", "uri": "http://x/y"}}}},
    "nothing": {},
}


@pytest.mark.parametrize("flavors", BAD.values(), ids=BAD)
def test_an_mlmodel_that_is_not_ours_is_refused(flavors):
    check_mlmodel(yaml.safe_dump({"flavors": {"python_function": GOOD}}), "good")
    with pytest.raises(TrackingError, match="MLmodel"):
        check_mlmodel(yaml.safe_dump({"flavors": flavors}), "bad")


def test_an_mlmodel_cannot_bring_code_in_its_yaml(tmp_path):
    text = f"!!python/object/apply:os.system ['touch {tmp_path}/marker']"
    with pytest.raises(TrackingError, match="MLmodel"):
        check_mlmodel(text, "bad")
    assert not (tmp_path / "marker").exists()


def test_a_version_that_somebody_else_registered_is_refused(database, tmp_path):
    run_id = logged(database, checkpoint(tmp_path / "made"))
    client = connect(database)
    assert promote(run_id, "m", uri=database) == 1
    root = client.get_run(run_id).info.artifact_uri
    for source, text in ((f"{root}/model", "its source is"), (f"{root}/pyfunc", "missing")):
        version = client.create_model_version("m", source, run_id).version
        with pytest.raises(TrackingError, match=text):
            pull(f"models:/m/{version}", tmp_path / "to", database)
    place = tmp_path / "mlartifacts" / "e" / run_id / "artifacts" / "pyfunc"
    place.mkdir()
    (place / "MLmodel").write_text(yaml.safe_dump({"flavors": BAD["another loader"]}))
    with pytest.raises(TrackingError, match=r"names the loader 'mlflow\.sklearn'"):
        pull(f"models:/m/{version}", tmp_path / "to", database)
    assert not (tmp_path / "to").exists()
    assert pull("models:/m/1", tmp_path / "to", database)

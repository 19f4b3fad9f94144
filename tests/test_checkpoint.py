from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from dmkd.checkpoint import State, load_model, load_state, read_info, save_model, save_state
from dmkd.errors import CheckpointError
from dmkd.models import Network, storage
from dmkd.models.embedder import EmbeddingNet, Preprocess, assemble


def small(seed: int = 0, **changes: Any) -> EmbeddingNet:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "none", "dim": 8, "resolution": 32} | changes
    return assemble(Network(**settings), Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), bgr=True))


def same(a: Any, b: Any) -> bool:
    """Equal in type, value, dtype and strides, bit for bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)


# Models


def test_a_network_comes_back_with_its_weights_preprocessing_and_notes(tmp_path: Path) -> None:
    net = small(pooling="gem", frozen_batchnorm=False)
    written = save_model(
        net, tmp_path / "m", resolution=32, extra={"crop_ratio": 0.8, 7: "seven"}, files={"config.yaml": "seed: 1\n"}
    )
    again, info = load_model(tmp_path / "m")
    assert info == written == read_info(tmp_path / "m")
    assert again.network == net.network
    assert again.preprocess == net.preprocess
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.eval()(images).embedding, net.eval()(images).embedding)
    assert info["format"] == "dmkd-model-1"
    assert info["resolution"] == 32
    assert info["extra"] == {"crop_ratio": 0.8, "7": "seven"}
    assert info["embedding"] == {"dim": 8, "unit_length": True, "compare_by": "dot product"}
    assert sorted(info["checksums"]) == ["config.yaml", "weights.safetensors"]
    assert (tmp_path / "m" / "config.yaml").read_text() == "seed: 1\n"


def test_the_preprocessing_is_said_to_the_pixel(tmp_path: Path) -> None:
    info = save_model(small(), tmp_path / "m", resolution=224)
    assert info["preprocessing"] == {
        "resize_shorter_side": 256,
        "interpolation": "bilinear",
        "antialias": True,
        "center_crop": 224,
        "crop_ratio": 0.875,
        "scale": "pixel / 255",
        "channels": "bgr",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }


def test_the_weight_file_is_plain_safetensors(tmp_path: Path) -> None:
    net = small()
    save_model(net, tmp_path / "m", resolution=32)
    with safe_open(tmp_path / "m" / "weights.safetensors", "pt") as file:
        assert set(file.keys()) == set(net.state_dict())
        assert torch.equal(file.get_tensor("head.linear.weight"), net.head.linear.weight)


def test_channels_last_networks_and_tied_parameters_can_be_written(tmp_path: Path) -> None:
    net = small().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.head.linear.bias = nn.Parameter(net.head.linear.weight.detach()[:, 0])
    save_model(net, tmp_path / "m", resolution=32)
    again, _ = load_model(tmp_path / "m")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))


def test_the_embedding_space_changes_with_weights_and_preprocessing_only(tmp_path: Path) -> None:
    def space(net: EmbeddingNet, **kwargs: Any) -> str:
        return str(save_model(net, tmp_path / "m", resolution=kwargs.pop("resolution", 32), **kwargs)["embedding_space"])

    first = space(small())
    assert space(small(), resolution=64, extra={"note": 1}) == first
    assert space(small(seed=1)) != first
    torch.manual_seed(0)
    assert space(assemble(small().network, Preprocess())) != first
    changed = small()
    with torch.no_grad():
        changed.head.linear.bias[0] += 1e-3
    assert space(changed) != first


@pytest.mark.parametrize("name", ["weights.safetensors", "config.yaml", "model.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_every_damage_is_seen(tmp_path: Path, name: str, damage: str) -> None:
    save_model(small(), tmp_path / "m", resolution=32, files={"config.yaml": "seed: 12345\n"})
    file = tmp_path / "m" / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-5])
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=name) as caught:
        load_model(tmp_path / "m")
    assert "\n" not in str(caught.value)


def forge(folder: Path, **changes: Any) -> None:
    """Rewrite model.json with a checksum that fits, as a hostile hand would."""
    from dmkd.models.saved import _own_checksum

    info = json.loads((folder / "model.json").read_text()) | changes
    info["sha256"] = _own_checksum(info)
    (folder / "model.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "dmkd-model-9"}, "format 'dmkd-model-9', wanted 'dmkd-model-1'"),
        ({"network": {"backbone": "resnet18", "weights": "none", "dim": 8, "resolution": 32}}, "does not describe its weights"),
        ({"network": {"backbone": "timm/nothing_like_it"}}, "does not describe its weights"),
        ({"network": {"no_such_key": 1}}, "does not describe its weights"),
        ({"preprocessing": {"mean": 3}}, "does not describe its weights"),
        ({"checksums": {}}, "wanted 'weights.safetensors'"),
        ({"checksums": None}, "does not describe its weights"),
        ({"checksums": {"weights.safetensors": None}}, "truncated or altered"),
        ({"checksums": {"../other": "0", "weights.safetensors": "0"}}, "plain names only"),
        ({"checksums": {"..": "0", "weights.safetensors": "0"}}, "plain names only"),
    ],
)
def test_a_forged_model_json_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_model(small(), tmp_path / "m", resolution=32)
    forge(tmp_path / "m", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "m")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    save_model(small(), tmp_path / "m", resolution=32)
    (tmp_path / "m" / "weights.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (tmp_path / "m" / "weights.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("name", ["../escape", "sub/file", "..", "model.json", "weights.safetensors", ""])
def test_further_files_have_plain_names_of_their_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="plain name"):
        save_model(small(), tmp_path / "m", resolution=32, files={name: "x"})
    assert list(tmp_path.iterdir()) == []


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="extra holds what JSON cannot"):
        save_model(small(), tmp_path / "m", resolution=32, extra={"x": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_no_folder_and_a_foreign_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder; wanted one with weights\.safetensors"):
        load_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"model\.json: no such file"):
        load_model(tmp_path)


class FullDisk:
    """Lets so many bytes through, then fails as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free, opened = free, Path.open

        def open_(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = opened(path, mode, *args, **kwargs)
            return self._watched(file) if "w" in mode else file

        monkeypatch.setattr(Path, "open", open_)

    def _watched(self, file: io.BufferedWriter) -> Any:
        disk = self

        class Watched:
            def __enter__(self) -> Watched:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, content: bytes) -> int:
                disk.free -= len(content)
                if disk.free < 0:
                    file.write(content[: disk.free])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file.write(content)

        return Watched()


@pytest.mark.parametrize("free", [0, 1000, 500_000])
def test_a_full_disk_leaves_the_old_checkpoint_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    old = small()
    save_model(old, tmp_path / "m", resolution=32)
    with monkeypatch.context() as patch:
        FullDisk(patch, free)
        with pytest.raises(CheckpointError, match=r"No space left.*unchanged"):
            save_model(small(seed=1, dim=400), tmp_path / "m", resolution=32)
    again, _ = load_model(tmp_path / "m")
    assert torch.equal(again.head.linear.weight, old.head.linear.weight)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_crash_while_replacing_leaves_the_previous_one_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = small()
    save_model(old, tmp_path / "m", resolution=32)
    rename, calls = os.rename, []

    def killed(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) > 1:
            raise KeyboardInterrupt  # nothing after this runs, as in a killed process
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "rename", killed)
        patch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            save_model(small(seed=1), tmp_path / "m", resolution=32)
    with pytest.warns(UserWarning, match="interrupted; the previous one is used"):
        again, _ = load_model(tmp_path / "m")
    assert torch.equal(again.head.linear.weight, old.head.linear.weight)
    save_model(small(seed=2), tmp_path / "m", resolution=32)
    assert torch.equal(load_model(tmp_path / "m")[0].head.linear.weight, small(seed=2).head.linear.weight)


def test_replacing_leaves_exactly_the_new_files(tmp_path: Path) -> None:
    save_model(small(), tmp_path / "m", resolution=32, files={"config.yaml": "a: 1"})
    save_model(small(), tmp_path / "m", resolution=32)
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == ["model.json", "weights.safetensors"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"file/m: cannot be written"):
        save_model(small(), tmp_path / "file" / "m", resolution=32)


# States


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam([{"params": net[0].parameters()}, {"params": net[3].parameters(), "lr": 1e-4}], lr=1e-3)
    for _ in range(3):
        step(net, optimizer)
    return net, optimizer


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss = net(torch.randn(5, 3, 8, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_a_state_round_trips_bit_for_bit_and_training_goes_on_alike(tmp_path: Path) -> None:
    net, optimizer = trained()
    payload = {
        "net": dict(net.state_dict()),
        "optimizer": optimizer.state_dict(),
        "random": [random.getstate(), torch.get_rng_state(), None],
        "numbers": {
            "nan": float("nan"),
            "inf": float("inf"),
            "tiny": 5e-324,
            "big": 2**70,
            "yes": True,
            -3: "minus",
            "text": "é",
        },
        "tensors": {0: torch.tensor(1.5, dtype=torch.float16), 1: torch.arange(6).view(2, 3).t(), 2: torch.zeros(0, 3)},
    }
    save_state(State(4, 321, payload), tmp_path)
    state = load_state(tmp_path)
    assert (state.epoch, state.iteration) == (4, 321)
    assert same(state.payload, payload)

    torch.set_rng_state(state.payload["random"][1])
    undisturbed = [step(net, optimizer) for _ in range(3)]
    other, fresh = trained()
    other.load_state_dict(state.payload["net"])
    fresh.load_state_dict(state.payload["optimizer"])
    torch.set_rng_state(state.payload["random"][1])
    assert [step(other, fresh) for _ in range(3)] == undisturbed


def test_numbers_of_numpy_become_plain_and_graphs_are_cut(tmp_path: Path) -> None:
    save_state(State(1, 1, {"x": np.float64(0.1), "p": nn.Parameter(torch.ones(2))}), tmp_path)
    payload = load_state(tmp_path).payload
    assert same(payload, {"x": 0.1, "p": torch.ones(2)})


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"a": {"b": [1, np.zeros(2)]}}, r"payload\.a\.b\[1\]: found ndarray"),
        ({"f": print}, r"payload\.f: found builtin_function_or_method"),
        ({"a": {(1, 2): 3}}, r"payload\.a: key \(1, 2\) is a tuple"),
    ],
)
def test_what_a_safe_file_cannot_hold_is_named(tmp_path: Path, payload: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_state(State(1, 1, payload), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_slice_is_saved_without_the_tensor_behind_it(tmp_path: Path) -> None:
    saved = save_state(State(1, 1, {"x": torch.zeros(1_000_000)[:10]}), tmp_path)
    assert (saved / "state.pt").stat().st_size < 10_000


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        save_state(State(epoch, 10 * epoch, {"x": torch.full((3,), float(epoch))}), tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state-00000003", "state-00000004"]
    assert load_state(tmp_path).epoch == 4


@pytest.mark.parametrize("name", ["state.pt", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_newest_state_gives_way_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    for epoch in (1, 2):
        newest = save_state(State(epoch, epoch, {"x": torch.full((3,), float(epoch))}), tmp_path)
    content = bytearray((newest / name).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        (newest / name).write_bytes(content)
    elif damage == "truncate":
        (newest / name).write_bytes(content[: len(content) // 3])
    else:
        (newest / name).unlink()
    with pytest.warns(UserWarning, match="going on from state-00000001") as caught:
        state = load_state(tmp_path)
    assert state.epoch == 1
    assert torch.equal(state.payload["x"], torch.ones(3))
    assert "\n" not in str(caught[0].message)
    save_state(State(2, 2, {}), tmp_path)
    assert load_state(tmp_path).epoch == 2


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        load_state(tmp_path / "none")
    only = save_state(State(1, 1, {}), tmp_path)
    (only / "state.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"nothing to resume from.*truncated or altered"):
        load_state(tmp_path)


def test_a_state_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    only = save_state(State(1, 1, {}), tmp_path)
    torch.save({"epoch": 1, "iteration": 1, "payload": {"x": Touch()}}, only / "state.pt")
    note = json.loads((only / "state.json").read_text())
    note["sha256"] = storage.sha256((only / "state.pt").read_bytes())
    (only / "state.json").write_text(json.dumps(note))
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        load_state(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("free", [0, 300, 1500])
def test_a_full_disk_leaves_the_earlier_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    for epoch in (1, 2):
        save_state(State(epoch, epoch, {}), tmp_path)
    with monkeypatch.context() as patch:
        FullDisk(patch, free)
        with pytest.raises(CheckpointError, match="No space left"):
            save_state(State(3, 3, {"x": torch.zeros(1000)}), tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state-00000001", "state-00000002"]
    assert load_state(tmp_path).epoch == 2


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    first = save_state(State(1, 1, {}), tmp_path)
    shutil.copytree(first, tmp_path / ".state-00000002.new-0123456789ab")
    save_state(State(2, 2, {}), tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state-00000001", "state-00000002"]

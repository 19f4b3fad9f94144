from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from dmkd.checkpoint import load_model, read_info, save_model
from dmkd.errors import CheckpointError
from dmkd.models import Network, storage
from dmkd.models.embedder import EmbeddingNet, Preprocess, assemble
from tests.full_disk import FullDisk


def small(seed: int = 0, **changes: Any) -> EmbeddingNet:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "none", "dim": 8, "resolution": 32} | changes
    return assemble(Network(**settings), Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), bgr=True))


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

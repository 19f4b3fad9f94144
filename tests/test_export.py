from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

import dmkd.export.programs
from dmkd.checkpoint import load_model
from dmkd.errors import ConfigError
from dmkd.export import ExportError, export, make_program
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, build_network

ONNX = all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime", "onnxscript"))
NEEDS_ONNX = pytest.mark.skipif(not ONNX, reason="needs the extra `export`")
EXTRA = {"metrics": {"test/recall_at_1": 0.48712}, "method": "s2sd/msdf"}


def photographs(size: int = 64) -> Tensor:
    """[4, 3, size, size] in [0, 1]: the left and right halves of two photographs."""
    halves = [half for image in load_sample_images().images for half in (image[:, :320], image[:, 320:])]
    return torch.stack([pil_to_tensor(Image.fromarray(half).resize((size, size))) for half in halves]) / 255


@pytest.fixture(scope="module")
def net() -> EmbeddingNet:
    torch.manual_seed(0)
    return build_network(Network("timm/test_efficientnet", weights="none", dim=16, pooling="gem", resolution=64))


def test_safetensors_with_a_card(net: EmbeddingNet, tmp_path: Path) -> None:
    info = export(net, tmp_path / "m", images=photographs(), extra=EXTRA)
    again, loaded = load_model(tmp_path / "m")
    assert loaded == info
    assert torch.equal(again.eval()(photographs()).embedding, net.eval()(photographs()).embedding)
    card = (tmp_path / "m" / "README.md").read_text()
    for words in ("timm/test_efficientnet", "16-d", "[B, 3, 64, 64]", "test/recall_at_1 | 0.4871", "s2sd/msdf", "gem"):
        assert words in card


def test_the_card_says_in_words_what_model_json_has_in_full(net: EmbeddingNet, tmp_path: Path) -> None:
    classes = {"count": 948, "sha256": "7650027d", "marks": "ABUL" * 1000}
    notes = {"trained_on": {"dataset": "signs", "fingerprint": "000d1f10", "training_classes": classes}}
    info = export(net, tmp_path / "m", images=photographs(), extra=notes | {"provenance": {"model": "m", "version": 3}})
    card = (tmp_path / "m" / "README.md").read_text()
    assert "| trained_on | signs, 948 classes (split 000d1f10) |" in card
    assert "| provenance | model m, version 3 |" in card
    assert "ABUL" not in card
    assert info["extra"]["trained_on"]["training_classes"] == classes
    # What another program wrote there is shown as it is.
    export(net, tmp_path / "n", images=photographs(), extra={"trained_on": "a disk of pictures"})
    assert "| trained_on | a disk of pictures |" in (tmp_path / "n" / "README.md").read_text()


def test_pt2_gives_the_same_embeddings_for_any_number_of_pictures(net: EmbeddingNet, tmp_path: Path) -> None:
    net.train()
    info = export(net, tmp_path / "m", "pt2", images=photographs())
    assert net.training
    program = torch.export.load(tmp_path / "m" / "model.pt2").module()
    seven = torch.cat([photographs(), photographs().flip(3)])[:7]
    torch.testing.assert_close(program(seven), net.eval()(seven).embedding, rtol=0, atol=1e-4)
    assert info["extra"]["parity"]["largest_difference"] <= 1e-4
    assert sorted(info["checksums"]) == ["README.md", "model.pt2", "weights.safetensors"]


@NEEDS_ONNX
def test_onnx_runtime_gives_the_same_embeddings_for_any_number_of_pictures(net: EmbeddingNet, tmp_path: Path) -> None:
    import onnxruntime

    export(net, tmp_path / "m", "onnx", images=photographs())
    session = onnxruntime.InferenceSession(tmp_path / "m" / "model.onnx", providers=["CPUExecutionProvider"])
    seven = torch.cat([photographs(), photographs().flip(3)])[:7]
    found = session.run(["embedding"], {"images": seven.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), net.eval()(seven).embedding, rtol=0, atol=1e-4)


def test_without_the_packages_onnx_says_what_to_install(
    net: EmbeddingNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dmkd.export.programs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx, onnxruntime, onnxscript: pip install 'dmkd\[export\]'"):
        export(net, tmp_path / "m", "onnx", images=photographs())
    assert not (tmp_path / "m").exists()


def test_a_file_that_differs_is_not_written(net: EmbeddingNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def module(self) -> object:
            return lambda images: torch.zeros(len(images), 16)

    monkeypatch.setattr(torch.export, "load", lambda file: Wrong())
    with pytest.raises(ExportError, match="pt2 file differs from the network by"):
        export(net, tmp_path / "m", "pt2", images=photographs())
    assert not (tmp_path / "m").exists()


def test_bad_requests(net: EmbeddingNet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        export(net, tmp_path / "m", "onx", images=photographs())
    with pytest.raises(ConfigError, match=r"\(4, 3, 32, 32\): wanted at least 2 of \(3, 64, 64\)"):
        export(net, tmp_path / "m", images=photographs(32))


@pytest.mark.parametrize("format", ["safetensors", "pt2", pytest.param("onnx", marks=NEEDS_ONNX)])
def test_a_program_takes_any_size_where_the_network_does(net: EmbeddingNet, tmp_path: Path, format: str) -> None:
    program, notes = make_program(net, format, "fp32", images=photographs())
    assert notes["runs"] == {"program": program.file, "size": "any", "batch": "any"}
    other = nn.functional.interpolate(photographs(), (48, 80))
    torch.testing.assert_close(program.run(other), net.eval()(other).embedding, rtol=0, atol=1e-4)
    if format != "onnx":
        archive = zipfile.ZipFile(io.BytesIO(program.content))
        # A pickle of protocol 2 or later begins with 0x80, and what torch.save writes is a zip, which begins with PK.
        begins = {name: archive.read(name)[:2] for name in archive.namelist() if "/weights/" not in name}
        assert not [name for name, start in begins.items() if start[:1] == b"\x80" or start == b"PK"]


def test_a_network_that_pads_by_size_is_exported_for_its_own(tmp_path: Path) -> None:
    same = build_network(Network("timm/test_efficientnet", weights="none", dim=16, resolution=64))
    same.backbone.body.conv_stem = Conv2dSame(3, same.backbone.body.conv_stem.out_channels, 3, stride=2, bias=False)
    program, notes = make_program(same, "safetensors", "fp32", images=photographs())
    assert notes["runs"]["size"] == 64
    torch.testing.assert_close(program.run(photographs()), same.eval()(photographs()).embedding, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("precision", "smaller", "near"), [("fp16", 0.55, 5e-3), ("int8", 0.33, 5e-2)])
def test_smaller_numbers_are_stored_and_come_back_as_what_they_round_to(
    net: EmbeddingNet, tmp_path: Path, precision: str, smaller: float, near: float
) -> None:
    whole = export(net, tmp_path / "whole", images=photographs())
    info = export(net, tmp_path / "small", images=photographs(), precision=precision)
    sizes = {name: (tmp_path / name / "weights.safetensors").stat().st_size for name in ("whole", "small")}
    assert sizes["small"] < smaller * sizes["whole"]
    assert info["embedding_space"] == whole["embedding_space"]
    again, _ = load_model(tmp_path / "small")
    for name, tensor in net.state_dict().items():
        found = again.state_dict()[name]
        if precision == "int8" and tensor.ndim >= 2:
            # By hand: 255 steps from -max to max of each output channel.
            step = tensor.flatten(1).abs().amax(1).view(-1, *[1] * (tensor.ndim - 1)) / 127
            assert ((found - tensor).abs() <= step * 0.5001).all()
        elif precision == "fp16" and name.startswith("backbone") and tensor.is_floating_point():
            assert torch.equal(found, tensor.half().float())
        else:
            assert torch.equal(found, tensor)
    difference = (again.eval()(photographs()).embedding - net.eval()(photographs()).embedding).abs().max()
    assert 0 < difference < near


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    wide = build_network(Network("timm/test_efficientnet", weights="none", dim=16, resolution=64))
    with torch.no_grad():
        next(wide.backbone.parameters()).mul_(1e9)
    with pytest.raises(ConfigError, match="beyond 65504"):
        export(wide, tmp_path / "m", images=photographs(), precision="fp16")
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        export(wide, tmp_path / "m", images=photographs(), precision="int4")


@NEEDS_ONNX
def test_onnx_int8_is_quantised_in_weights_and_activations(net: EmbeddingNet) -> None:
    import onnx

    whole, _ = make_program(net, "onnx", "fp32", images=photographs())
    program, notes = make_program(net, "onnx", "int8", images=photographs())
    kinds = {node.op_type for node in onnx.load_from_string(program.content).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert len(program.content) < 0.6 * len(whole.content)
    assert notes["parity"]["smallest_cosine"] > 0.9

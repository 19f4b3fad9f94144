from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

import dmkd.export
from dmkd.checkpoint import load_model
from dmkd.errors import ConfigError
from dmkd.export import ExportError, export
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, build_network

ONNX = all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime", "onnxscript"))
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


def test_pt2_gives_the_same_embeddings_for_any_number_of_pictures(net: EmbeddingNet, tmp_path: Path) -> None:
    net.train()
    info = export(net, tmp_path / "m", "pt2", images=photographs())
    assert net.training
    program = torch.export.load(tmp_path / "m" / "model.pt2").module()
    seven = torch.cat([photographs(), photographs().flip(3)])[:7]
    torch.testing.assert_close(program(seven), net.eval()(seven).embedding, rtol=0, atol=1e-4)
    assert info["extra"]["parity"]["largest_difference"] <= 1e-4
    assert sorted(info["checksums"]) == ["README.md", "model.pt2", "weights.safetensors"]


@pytest.mark.skipif(not ONNX, reason="needs the extra `export`")
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
    monkeypatch.setattr(dmkd.export.importlib.util, "find_spec", lambda name: None)
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

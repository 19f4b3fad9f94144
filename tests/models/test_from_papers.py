from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from dmkd.errors import ShapeError, WeightsError
from dmkd.models import Network, weights
from dmkd.models.backbones import backbone_names, build_backbone
from dmkd.models.embedder import build_network
from dmkd.models.from_papers import INCEPTION_FILE, mobilenet_v1
from dmkd.models.preprocess import Normalize
from dmkd.models.registry import count_gflops, count_parameters
from dmkd.models.trunk import Backbone
from dmkd.models.weights import load_weights

GOLDEN = Path(__file__).parents[1] / "goldens" / "bninception.npz"
"""Names and shapes of the state of pretrainedmodels 0.7.4's bninception, and its feature map for the weights and image below."""


def value(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights in closed form, as the golden was made with."""
    wave = np.sin(np.arange(int(np.prod(shape))) * 0.7 + len(name))
    if name.endswith("running_var"):
        wave = 1 + 0.5 * wave**2
    elif name.endswith("_bn.weight"):
        wave = 1 + 0.2 * wave
    else:
        wave = wave * ((2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 else 0.1)
    return torch.from_numpy(wave.reshape(shape)).float()


@cache
def inception() -> Backbone:
    return build_backbone("bninception", 64)


def test_inception_equals_the_released_network_in_names_shapes_and_numbers() -> None:
    golden = np.load(GOLDEN)
    backbone = build_backbone("bninception", 64).eval()
    state = backbone.body.state_dict()
    theirs = dict(zip(golden["names"].tolist(), golden["shapes"].tolist(), strict=True))
    assert {name: str(tuple(tensor.shape)) for name, tensor in state.items()} == {
        name: shape for name, shape in theirs.items() if not name.startswith("last_linear")
    }
    backbone.body.load_state_dict(
        {name: value(name, tuple(tensor.shape)) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
    image = torch.from_numpy(np.sin(np.arange(3 * 64 * 64) * 0.37).reshape(1, 3, 64, 64)).float()
    with torch.no_grad():
        feature_map, stages = backbone(image, ("inception_3c", "inception_5b"))
    torch.testing.assert_close(feature_map, torch.from_numpy(golden["feature_map"]), rtol=1e-4, atol=1e-3)
    assert torch.equal(stages["inception_5b"], feature_map)
    assert stages["inception_3c"].shape == (1, 576, 4, 4)


def test_inception_normalises_as_the_released_code_which_turns_the_channels_round_last() -> None:
    pixels = torch.rand(1, 3, 8, 8)
    mean = torch.tensor([0.502, 0.4588, 0.4078]).view(3, 1, 1)
    expected = ((pixels - mean) / 0.0039)[:, [2, 1, 0]]
    torch.testing.assert_close(Normalize(inception().preprocess)(pixels), expected)


def test_inception_says_which_sizes_near_112_it_takes() -> None:
    with pytest.raises(ShapeError, match=r"'bninception' does not take images of 112 px .*; nearest that it takes: 96 or 128 px"):
        build_backbone("bninception", 112)


def test_mobilenet_of_width_one_equals_timms() -> None:
    theirs, ours = timm.create_model("mobilenetv1_100", num_classes=0).eval(), mobilenet_v1(1.0).eval()
    state = list(theirs.state_dict().values())  # both list their layers from the first to the last
    ours.load_state_dict(dict(zip(ours.state_dict(), state, strict=True)))
    image = 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = theirs.forward_features(image), ours(image)  # type: ignore[operator]
    assert found.max() < 6  # timm's activation is bounded there, that of the paper is not
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "mult_adds", "parameters"), [("025", 41e6, 0.5e6), ("050", 149e6, 1.3e6), ("075", 325e6, 2.6e6)]
)
def test_mobilenets_cost_what_their_paper_says(name: str, mult_adds: float, parameters: float) -> None:
    """Howard et al. 2017, table 6; with the classifier of 1000 classes."""
    backbone = build_backbone(f"mobilenet_v1_{name}", 64)
    classifier = backbone.channels * 1000
    assert count_gflops(backbone, 224) * 1e9 + classifier == pytest.approx(mult_adds, rel=0.02)
    assert count_parameters(backbone) + classifier + 1000 == pytest.approx(parameters, rel=0.06)
    assert backbone.stage_channels["block12"] == backbone.channels


def test_a_narrow_mobilenet_says_why_it_has_no_imagenet_weights() -> None:
    with pytest.raises(
        WeightsError, match=r"no ImageNet weights are published for 'mobilenet_v1_025' \(torchvision has no .*none"
    ):
        build_network(Network("mobilenet_v1_025", resolution=64))


def inception_file(folder: Path) -> dict[str, Tensor]:
    """A file as distributed, classifier included, in torch.hub's folder."""
    state = inception().body.state_dict()
    state |= {"last_linear.weight": torch.zeros(1000, 1024), "last_linear.bias": torch.zeros(1000)}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / INCEPTION_FILE.rsplit("/", 1)[1])
    return state


def test_inception_takes_the_distributed_file_from_the_hubs_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "_reach", lambda url: pytest.fail(f"asked {url}"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    state = inception_file(tmp_path / "checkpoints")
    net = build_network(Network("bninception", resolution=64))
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.backbone.body.state_dict().items())
    assert net.preprocess.bgr


def test_inception_is_fetched_once_and_its_hash_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def download(url: str, file: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        inception_file(Path(file).parent)

    monkeypatch.setattr(weights, "_reach", lambda url: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        load_weights(inception(), "imagenet")
    assert asked == [(INCEPTION_FILE, "52deb4733")]


def test_the_papers_networks_are_known_by_name() -> None:
    assert {"bninception", "mobilenet_v1_025"} <= set(backbone_names())

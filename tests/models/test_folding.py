"""Folded batch-norms change nothing but the last digits; what cannot be folded runs as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, assemble
from dmkd.models.folding import Folded, foldable, folded
from dmkd.models.from_torchvision import ResNetBackbone


def network(backbone: str, resolution: int = 64) -> EmbeddingNet:
    """In evaluation mode, with statistics, scales and shifts as training leaves them."""
    torch.manual_seed(0)
    net = assemble(Network(backbone, weights="none", dim=8, resolution=resolution))
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.1, 0.1),
            ):
                assert tensor is not None
                tensor.uniform_(low, high)
    return net.eval()


def norms(net: EmbeddingNet) -> int:
    return sum(isinstance(module, _BatchNorm) for module in net.modules())


LEFT = {
    "resnet18": 0,
    "mobilenet_v2": 0,
    "bninception": 0,
    "densenet121": 62,  # behind a concatenation
    "timm/test_efficientnet": 0,  # batch-norms with their activation in them
    "timm/tf_efficientnet_lite0": 0,  # convolutions whose padding depends on the picture
    "squeezenet1_1": 0,
}
"""Batch-norms that stay, by backbone."""


@pytest.mark.parametrize("name", LEFT)
def test_a_folded_network_gives_what_the_network_gives(name: str) -> None:
    net = network(name).double()
    before = copy.deepcopy(net.state_dict())
    twin = folded(net)
    assert norms(twin) == LEFT[name]
    images = torch.rand(3, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = net(images), twin(images)
    assert (found.feature_map - wanted.feature_map).norm() < 1e-10 * wanted.feature_map.norm()
    torch.testing.assert_close(found.embedding, wanted.embedding, rtol=0, atol=1e-6)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_convolution_that_is_asked_for_as_a_stage_gives_its_own_map() -> None:
    net = network("resnet18")
    stages = ("layer1.1.conv2", "layer2.0", "layer1.0.relu1")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = net(images, stages=stages).stages
    found = Folded(net)(images, stages).stages
    assert norms(folded(net, stages)) == 1
    assert found.keys() == wanted.keys() == set(stages)
    for stage in stages:
        torch.testing.assert_close(found[stage], wanted[stage], rtol=1e-4, atol=1e-5)


def test_what_still_learns_its_statistics_is_left_alone() -> None:
    net = network("resnet18")
    net.backbone.body.get_submodule("layer4").train()
    assert {norm.split(".")[1] for _, norm in foldable(net.backbone)} == {"bn1", "layer1", "layer2", "layer3"}
    net.train()
    net.network = Network("resnet18", frozen_batchnorm=False)
    assert foldable(net.train().backbone) == ()
    assert folded(net) is net


class Standardised(nn.Conv2d):
    """A convolution that does not use its weight as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None]
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)


def test_a_network_that_would_give_something_else_runs_as_it_is_and_says_so() -> None:
    net = network("resnet18")
    first = Standardised(3, 64, 7, 2, 3, bias=False)
    nn.init.normal_(first.weight)
    net.backbone.body.set_submodule("conv1", first)
    with pytest.warns(UserWarning, match=r"resnet18: with folded batch-norms its features are .* it runs without folding"):
        assert folded(net.eval()) is net


class Shared(nn.Module):
    """One convolution before two batch-norms, one convolution called twice, and one whose output is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.seen = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norms[1](self.twice(self.norms[0](self.twice(x))))
        y = self.seen(x)
        return self.norms[2](y) + y


def test_only_a_convolution_that_one_batch_norm_alone_sees_is_folded() -> None:
    backbone = network("resnet18").backbone
    backbone.body, backbone._steps = nn.ModuleDict({"whole": Shared()}), ("whole",)  # type: ignore[assignment, attr-defined]
    assert foldable(backbone.eval()) == ()


class Undecided(ResNetBackbone):
    """What it does depends on the pictures."""

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        return super().trunk(images if float(images.sum()) > 0 else -images)


def test_a_trunk_that_cannot_be_traced_is_not_folded() -> None:
    net = network("resnet18")
    assert len(foldable(net.backbone)) == 20
    net.backbone.__class__ = Undecided
    assert foldable(net.backbone) == ()
    assert folded(net) is net


def test_folding_draws_from_no_generator_and_happens_once() -> None:
    net, images = network("resnet18"), torch.rand(1, 3, 64, 64)
    state, forward = torch.get_rng_state(), Folded(net)
    first = forward(images)
    made = forward._made[()]
    torch.testing.assert_close(forward(images).embedding, first.embedding, rtol=0, atol=0)
    assert forward._made == {(): made}
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.embedding.requires_grad

"""Losses by name: presets, and any loss of pytorch-metric-learning as `library.X`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dmkd.config import Config, from_yaml, to_yaml
from dmkd.errors import ConfigError
from dmkd.losses import PRESETS, Library, Margin, Triplet
from dmkd.optim import Optim, parameter_groups
from dmkd.space import override


class Net(nn.Module):
    """As much of a network as parameter groups look at."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(3, 4), nn.Linear(4, 8)


def test_a_loss_of_the_library_is_named_in_yaml_and_on_the_command_line() -> None:
    assert from_yaml("loss: library.ProxyAnchorLoss").loss == Library("ProxyAnchorLoss")
    given = from_yaml("loss: {name: library.ArcFaceLoss, arguments: [margin=30], lr: 0.01}")
    assert given.loss == Library("ArcFaceLoss", ("margin=30",), lr=0.01)
    assert from_yaml(to_yaml(given)) == given
    assert override(Config(), {"loss.name": "library.CircleLoss", "loss.lr": 0.1}).loss == Library("CircleLoss", lr=0.1)
    assert override(Config(), {"loss": "library.CircleLoss"}).loss == Library("CircleLoss")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: library.ProxyAnchrLoss", "ProxyAnchorLoss"),
        ("loss: {name: library.ArcFaceLoss, arguments: [margn=30]}", "margin"),
        ("loss: librar.X", "did you mean 'library'"),
        ("loss: r_margin_cup", "r_margin_cub"),
    ],
)
def test_a_misspelt_one_is_refused_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_yaml(text).loss.build(8, 4)


def test_proxies_have_a_group_of_their_own() -> None:
    loss = from_yaml("loss: {name: library.ProxyAnchorLoss, lr: 0.002}").loss.build(8, 5)
    groups = parameter_groups(Net(), loss.parameter_groups(1e-5), Optim())  # type: ignore[operator]
    (own,) = [group for group in groups if any(parameter.shape == (5, 8) for parameter in group["params"])]
    assert len(own["params"]) == 1
    assert (own["lr"], own["weight_decay"]) == (0.002, 0.0)


def test_r_margin_has_the_switches_of_its_published_runs() -> None:
    switches = {"cub": 0.4, "cars": 0.35, "sop": 0.15}
    for name, switch in switches.items():
        loss = from_yaml(f"loss: r_margin_{name}").loss
        assert loss == Margin(beta=0.6, sampler="rho", switch=switch)
        assert torch.equal(loss.build(4, 3).beta.detach(), torch.full((3,), 0.6))  # type: ignore[operator, union-attr]
    assert from_yaml("loss: {preset: r_margin_cub, margin: 0.1}").loss == Margin(beta=0.6, sampler="rho", switch=0.4, margin=0.1)
    assert PRESETS["yu_triplet"] == Triplet(margin=0.0, sampler="batch_hard")
    assert list(PRESETS) == ["r_margin_cub", "r_margin_cars", "r_margin_sop", "yu_triplet"]

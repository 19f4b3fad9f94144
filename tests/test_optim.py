"""Groups, schedules and steps of the optimizer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dmkd.distill import S2SD, MetricLearning
from dmkd.distill.base import Method, Shapes
from dmkd.errors import ConfigError
from dmkd.losses import Margin
from dmkd.optim import (
    Optim,
    Precision,
    make_optimizer,
    make_schedule,
    optimizer_step,
    parameter_groups,
    steps_per_epoch,
)

GOLDENS = Path(__file__).parent / "goldens"


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))
        self.linear = nn.Linear(4, 2)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        self.head = Head()


def test_groups_give_the_embedding_layer_and_the_pooling_exponent_their_rates() -> None:
    own = nn.Parameter(torch.zeros(3))
    groups = parameter_groups(Tiny(), [{"params": [own], "lr": 5e-4, "weight_decay": 0.0}], Optim(lr=1e-5, head_lr=1e-4))
    optimizer = make_optimizer(groups, Optim(lr=1e-5, weight_decay=4e-4))
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (1e-5, 4e-4),
        (1e-4, 4e-4),
        (1e-3, 0.0),
        (5e-4, 0.0),
    ]


def test_frozen_parameters_are_left_out() -> None:
    net = Tiny()
    net.backbone.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(net, [], Optim())) == 3


def test_one_cycle_equals_ramls_released_schedule() -> None:
    golden = np.load(GOLDENS / "sched_raml_onecycle.npz")
    optim = Optim(optimizer="adamw", lr=1.4025e-4, schedule="one_cycle", epochs=4)
    optimizer = make_optimizer(parameter_groups(Tiny(), [], optim), optim)
    schedule = make_schedule(optimizer, optim, 10)
    rates, momenta = [], []
    for _ in range(40):
        rates.append([group["lr"] for group in optimizer.param_groups])
        momenta.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule.step()
    np.testing.assert_allclose(rates, golden["lr_per_step_per_group"], rtol=1e-12)
    np.testing.assert_allclose(momenta, golden["beta1_per_step"], rtol=1e-12)


def rates_of(optim: Optim, per_epoch: int) -> list[list[float]]:
    """The rate of every group at every step of the run."""
    optimizer = make_optimizer(parameter_groups(Tiny(), [], optim), optim)
    schedule = make_schedule(optimizer, optim, per_epoch)
    rates = []
    for _ in range(optim.epochs * per_epoch):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule.step()
    return rates


@pytest.mark.parametrize(
    ("gamma", "first", "factor"),
    [(0.99, False, lambda epoch: 0.99**epoch), (math.exp(-0.01), True, lambda epoch: math.exp(-0.01 * (epoch + 1)))],
    ids=["AML's text", "AML's released code"],
)
def test_exponential_decay_as_in_the_text_and_as_released(gamma: float, first: bool, factor: Callable[[int], float]) -> None:
    """Per epoch, for each group: the backbone's 1e-3 and the GeM exponent's 1e-2 (spec 5.5)."""
    optim = Optim(optimizer="sgd", lr=1e-3, weight_decay=1e-6, schedule="exponential", gamma=gamma, decay_first=first, epochs=5)
    wanted = [[rate * factor(step // 3) for rate in (1e-3, 1e-3, 1e-2)] for step in range(15)]
    np.testing.assert_allclose(rates_of(optim, 3), wanted, rtol=1e-12)


def test_exponential_decay_is_torchs_own() -> None:
    peer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    theirs = torch.optim.lr_scheduler.ExponentialLR(peer, gamma=0.9)
    wanted = []
    for _ in range(4):
        wanted.append(peer.param_groups[0]["lr"])
        peer.step()
        theirs.step()
    rates = rates_of(Optim(optimizer="sgd", lr=0.2, schedule="exponential", gamma=0.9, epochs=4), 2)
    np.testing.assert_allclose([rate[0] for rate in rates[::2]], wanted, rtol=1e-12)


def test_one_cycle_keeps_each_groups_own_peak_when_asked() -> None:
    """RAML's text: 10 x the rate for the GeM exponent, and PyTorch's default division by 25 at the start."""
    optim = Optim(optimizer="adamw", lr=1e-4, schedule="one_cycle", epochs=4, group_rates=True, one_cycle_divisor=25.0)
    rates = np.array(rates_of(optim, 10))
    # Peak after 30 % of the steps, cosine up and down: the closed form of Smith & Topin's schedule as PyTorch anneals it.
    step, peak, last = np.arange(40.0), 0.3 * 40 - 1, 39.0
    rise, fall = np.minimum(step / peak, 1), np.maximum((step - peak) / (last - peak), 0)
    start, end = 1 / 25, 1 / 25 / 1e4
    shape = np.where(
        step <= peak, 1 + (start - 1) * (1 + np.cos(np.pi * rise)) / 2, end + (1 - end) * (1 + np.cos(np.pi * fall)) / 2
    )
    np.testing.assert_allclose(rates, shape[:, None] * np.array([1e-4, 1e-4, 1e-3]), rtol=1e-9)


def test_cosine_ends_at_zero() -> None:
    rates = rates_of(Optim(lr=2.0, schedule="cosine", epochs=2), 4)
    wanted = [1 + math.cos(math.pi * step / 8) for step in range(8)]
    np.testing.assert_allclose([rate[0] for rate in rates], wanted, rtol=1e-12)


def test_obd_sds_longer_runs_fall_twice() -> None:
    """Cars with 512 dimensions: 300 epochs at 1e-5, x 0.3 at 200 and at 250 (spec 8.5)."""
    optim = Optim(epochs=300, schedule="steps", gamma=0.3, milestones=(200, 250))
    rates = [rate[0] for rate in rates_of(optim, 1)]
    assert [rates[epoch] for epoch in (0, 199, 200, 249, 250, 299)] == pytest.approx([1e-5, 1e-5, 3e-6, 3e-6, 9e-7, 9e-7])


def test_steps_without_milestones_are_refused() -> None:
    optim = Optim(schedule="steps")
    with pytest.raises(ConfigError, match=r"optim.schedule=steps, but optim.milestones is empty: give the epochs"):
        make_schedule(make_optimizer(parameter_groups(Tiny(), [], optim), optim), optim, 10)


def test_exponential_changes_once_an_epoch() -> None:
    optim = Optim(optimizer="sgd", lr=1.0, schedule="exponential", gamma=0.5, epochs=3)
    optimizer = make_optimizer(parameter_groups(Tiny(), [], optim), optim)
    schedule = make_schedule(optimizer, optim, 2)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_steps_fall_after_the_epochs_of_their_milestones() -> None:
    optim = Optim(lr=1.0, schedule="steps", gamma=0.3, milestones=(1, 3), epochs=4)
    optimizer = make_optimizer(parameter_groups(Tiny(), [], optim), optim)
    schedule = make_schedule(optimizer, optim, 2)
    peer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(peer, [1, 3], gamma=0.3)
    for _ in range(4):
        for _ in range(2):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(peer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        peer.step()
        theirs.step()


def test_adam_is_the_textbooks_with_l2_in_the_gradient() -> None:
    """The papers' Adam adds weight_decay * w to the gradient before the moments; AdamW does not."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optim = Optim(lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer([{"params": [weight]}], optim)
    weight.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer_step(optimizer, Precision("fp32", torch.device("cpu")), optim)
    gradient = 1.0 + 0.5 * 2.0
    first, second = gradient, gradient**2  # after bias correction
    assert weight.item() == pytest.approx(2.0 - 0.1 * first / (second**0.5 + 1e-8), rel=1e-12)
    assert weight.grad is None


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    """RAML's optimizer: the decay shrinks the weight by lr * weight_decay, whatever the moments."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optim = Optim(optimizer="adamw", lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer([{"params": [weight]}], optim)
    weight.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer_step(optimizer, Precision("fp32", torch.device("cpu")), optim)
    assert weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1 * 1.0 / (1.0 + 1e-8), rel=1e-12)


def test_sgd_has_momentum_and_l2() -> None:
    """AML's optimizer, written out: v = 0.9 v + g + decay * w; w = w - lr * v."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optim = Optim(optimizer="sgd", lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer([{"params": [weight]}], optim)
    value, velocity = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer_step(optimizer, Precision("fp32", torch.device("cpu")), optim)
        velocity = 0.9 * velocity + gradient + 0.5 * value
        value -= 0.1 * velocity
        assert weight.item() == pytest.approx(value, rel=1e-12)


SHAPES = Shapes(embedding=8, channels=6, classes=5, images=20)


@pytest.mark.parametrize(
    ("method", "betas", "own"),
    [
        # Alone the betas learn at 5e-4; inside S2SD, as released, at the global rate, with the heads (spec 1.2, 6).
        (MetricLearning(), 5e-4, {5e-4: 5}),
        (S2SD(dims=(3, 4)), 1e-5, {1e-5: 3 * 5 + (6 * 3 + 3 + 3 * 3 + 3) + (6 * 4 + 4 + 4 * 4 + 4)}),
    ],
    ids=["metric_learning", "s2sd"],
)
def test_groups_of_the_papers_methods(method: Method, betas: float, own: dict[float, int]) -> None:
    """Backbone and embedding layer at 1e-5 with weight decay 4e-4; heads and betas without decay."""
    objective = method.build(SHAPES, lambda dim: Margin().build(dim, 5))
    optim = Optim()
    optimizer = make_optimizer(parameter_groups(Tiny(), objective.parameter_groups(optim.lr), optim), optim)
    network, rest = optimizer.param_groups[:2], optimizer.param_groups[3:]
    assert [(group["lr"], group["weight_decay"]) for group in network] == [(1e-5, 4e-4)] * 2
    assert all(group["weight_decay"] == 0 for group in rest)
    assert {group["lr"]: sum(p.numel() for p in group["params"]) for group in rest} == own
    held = {id(p): group["lr"] for group in rest for p in group["params"]}
    assert all(held[id(p)] == betas for name, p in objective.named_parameters() if name.endswith("beta"))


def test_clipping_bounds_the_norm_over_all_groups() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optim = Optim(optimizer="sgd", lr=1.0, weight_decay=0.0, clip=1.0)
    optimizer = make_optimizer([{"params": [weight]} for weight in weights], optim)
    for weight, gradient in zip(weights, (3.0, 4.0), strict=True):
        weight.grad = torch.tensor([gradient])
    optimizer_step(optimizer, Precision("fp32", torch.device("cpu")), optim)
    assert [weight.item() for weight in weights] == pytest.approx([-0.6, -0.8], rel=1e-4)


def test_a_last_incomplete_accumulation_makes_a_step() -> None:
    assert [steps_per_epoch(batches, Optim(accumulate=4)) for batches in (4, 5, 8)] == [1, 2, 2]


def test_bf16_runs_matrix_products_in_bf16() -> None:
    with Precision("bf16", torch.device("cpu")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with Precision("fp32", torch.device("cpu")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32

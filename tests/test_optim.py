"""Groups, schedules and steps of the optimizer."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dmkd.optim import Optim, Precision, make_optimizer, make_schedule, optimizer_step, parameter_groups, steps_per_epoch

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

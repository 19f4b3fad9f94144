"""What the optimizers' fused kernels rely on: where moments and gradients lie, and on which device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dmkd.optim import Optim, Precision, load_optimizer, make_optimizer, optimizer_step, parameter_groups
from tests.test_optim import Tiny
from tests.waits import pretended_gpu


def plain_peer(optim: Optim, parameter: nn.Parameter) -> torch.optim.Optimizer:
    """Torch's own optimizer, parameter by parameter, with nothing fused."""
    made = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optim.optimizer]
    options = {"momentum": 0.9} if optim.optimizer == "sgd" else {}
    return made([parameter], lr=optim.lr, weight_decay=optim.weight_decay, foreach=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_one_kernel_steps_as_the_plain_form_also_after_moments_came_back_in_another_layout(name: str) -> None:
    """Convolutions lie channels last; a fused kernel that trusts a moment's layout without looking would mix its elements up."""
    optim, start = Optim(optimizer=name, lr=0.01, weight_decay=0.1), torch.randn(6, 5, 3, 3)
    ours, theirs = (nn.Parameter(start.clone().to(memory_format=torch.channels_last)) for _ in range(2))
    optimizer, peer = make_optimizer([{"params": [ours]}], optim), plain_peer(optim, theirs)
    for step in range(6):
        gradient = torch.randn(6, 5, 3, 3).to(memory_format=torch.channels_last)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        peer.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        if step == 2:
            saved = optimizer.state_dict()
            for moments in saved["state"].values():
                moments |= {key: value.contiguous() for key, value in moments.items() if isinstance(value, torch.Tensor)}
            optimizer = make_optimizer([{"params": [ours]}], optim)
            load_optimizer(optimizer, saved)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_moments_of_a_cpu_go_on_on_a_gpu(name: str) -> None:
    """Also the count of steps, which a fused kernel reads on its own device (pretended: tensors without values)."""
    net, optim = Tiny(), Optim(optimizer=name)
    optimizer = make_optimizer(parameter_groups(net, [], optim), optim)
    net.head.linear(net.backbone(torch.ones(2, 4))).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    with pretended_gpu() as gpu:
        there = make_optimizer(parameter_groups(net.to(gpu), [], optim), optim)
        load_optimizer(there, saved)
        found = [value for state in there.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert len(found) == sum(len(state) for state in saved["state"].values()) > 0
    assert {value.device.type for value in found} == {"cuda"}


def test_gradients_lie_as_their_parameters_do() -> None:
    """What the fused step relies on, whatever layout a gradient is made in."""
    layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    layer(torch.randn(2, 4, 8, 8)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.stride() == layer.weight.stride()
    loose = nn.Parameter(torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last))
    (loose.reshape(-1) * torch.arange(216.0)).sum().backward()
    assert loose.grad is not None
    assert loose.grad.stride() == loose.stride()


@pytest.fixture
def memory_as_it_is_found() -> Iterator[None]:
    """Memory that nobody has written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("memory_as_it_is_found")
@pytest.mark.parametrize("clip", [0.0, 100.0])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_first_step_that_fp16s_scaler_takes_back_leaves_nothing_behind(name: str, clip: float) -> None:
    """Its scale begins at 65,536, at which the first gradients often overflow. (On a CPU runs have no scaler; its kernels do.)"""
    ours, theirs = (nn.Parameter(torch.tensor([2.0, -1.0])) for _ in range(2))
    optim, precision = Optim(optimizer=name, lr=0.1, weight_decay=0.1, clip=clip), Precision("fp16", torch.device("cpu"))
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer, peer = make_optimizer([{"params": [ours]}], optim), plain_peer(optim, theirs)
    for gradient in (torch.inf, 3.0, -1.0):
        precision.scaler.scale(torch.zeros(()))  # as a loss is, before the scale is asked for
        ours.grad = torch.full((2,), gradient * precision.scaler.get_scale())
        optimizer_step(optimizer, precision, optim)
        if gradient < torch.inf:
            theirs.grad = torch.full((2,), gradient)
            peer.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

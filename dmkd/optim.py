"""Optimizers, parameter groups, schedules and mixed precision."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from dmkd.errors import ConfigError
from dmkd.space import Limit, OneOf, Range


@dataclass(frozen=True)
class Optim:
    """Optimisation of a run. Defaults are those of S2SD and OBD-SD (Adam with L2, no schedule)."""

    epochs: Annotated[int, Limit(minimum=0)] = 150
    """0: no training; the network is evaluated as it is."""
    optimizer: Annotated[str, OneOf(("adam", "adamw", "sgd"))] = "adam"
    """adam: L2 in the gradient (not decoupled), as the papers used it; sgd: momentum 0.9."""
    lr: Annotated[float, Range(1e-6, 1e-3, log=True), Limit(above=0)] = 1e-5
    head_lr: Annotated[float, Limit(minimum=0)] = 0.0
    """Rate of the embedding layer; 0: as `lr`."""
    weight_decay: Annotated[float, Limit(minimum=0)] = 4e-4
    schedule: Annotated[str, OneOf(("constant", "one_cycle", "exponential", "steps", "cosine"))] = "constant"
    gamma: Annotated[float, Limit(above=0, maximum=1)] = 0.99
    """Factor per epoch of the exponential schedule, or at each of the `milestones` of steps. AML's text has 0.99 an epoch, its
    released code exp(-0.01) = 0.990049833749168, and with `decay_first`."""
    decay_first: bool = False
    """Exponential: multiply before the first epoch too, so that epoch e, from 0, has gamma^(e + 1), as AML's released code."""
    milestones: Annotated[tuple[int, ...], Limit(minimum=1)] = ()
    """Epochs done when the rate of the schedule "steps" falls (OBD-SD's Table 2: 200, 250 of 300 on Cars, by 0.3)."""
    one_cycle_divisor: Annotated[float, Limit(minimum=1)] = 10.0
    """One-cycle starts at its largest rate divided by this: 10 in RAML's released code, 25 in its text (PyTorch's default)."""
    group_rates: bool = False
    """One-cycle: each parameter group keeps its own rate as its largest; off, as released: `lr` for all of them."""
    accumulate: Annotated[int, Limit(minimum=1)] = 1
    """Batches per optimizer step, each with weight 1 / accumulate, also in an epoch's last, incomplete step."""
    chunk: Annotated[int, Limit(minimum=0)] = 0
    """Pictures per forward pass; 0: all of a batch. The gradient is that of the whole batch in either case (gradient caching)."""
    clip: Annotated[float, Limit(minimum=0)] = 0.0
    """Largest gradient norm; 0: no clipping."""
    precision: Annotated[str, OneOf(("fp32", "bf16", "fp16"))] = "fp32"
    """On a GPU convolutions in fp32 round their input to 10 bits (TF32), as is torch's default; matrix products do not."""
    channels_last: bool = True
    compile: bool = False
    """Compile the student's pass of a training step (`models.compiled`): a minute or more at the first step of a process, less
    where another trial of the machine has compiled it; equal to rounding. Where it cannot be, the student runs as it is."""


class Grouped(Protocol):
    """What `parameter_groups` asks of a network: its backbone, and its head (pooling exponent and embedding layer)."""

    @property
    def backbone(self) -> nn.Module:
        """All but the head."""

    @property
    def head(self) -> nn.Module:
        """Pooling exponent (a parameter named "p") and embedding layer."""


def parameter_groups(network: Grouped, objective_groups: Iterable[dict[str, Any]], optim: Optim) -> list[dict[str, Any]]:
    """Groups: backbone, embedding layer, GeM exponent (10 x the rate, no decay: AML 5.5, RAML 7), the objective's own."""
    rate = optim.head_lr or optim.lr
    exponents = [parameter for name, parameter in network.head.named_parameters() if name.split(".")[-1] == "p"]
    special = {id(parameter) for parameter in exponents}
    groups: list[dict[str, Any]] = [
        {"params": list(network.backbone.parameters())},
        {"params": [parameter for parameter in network.head.parameters() if id(parameter) not in special], "lr": rate},
        {"params": exponents, "lr": 10 * rate, "weight_decay": 0.0},
        *objective_groups,
    ]
    trainable = [group | {"params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    return [group for group in trainable if group["params"]]


def make_optimizer(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    """The optimizer of `optim` over `groups`; what a group does not say comes from `optim`. One kernel does all of an update
    (torch's fused form, on CPU and GPU); load its state by `load_optimizer`."""
    fused = {parameter.device.type for group in groups for parameter in group["params"]} <= {"cpu", "cuda"}
    options: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay} | ({"fused": True} if fused else {})
    if optim.optimizer == "adam":
        return torch.optim.Adam(groups, **options)
    if optim.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options)
    made = torch.optim.SGD(groups, momentum=0.9, **options)
    # Torch allocates momentum at the first step, and leaves it as it finds it where fp16's scaler takes that step back.
    for parameter in (each for group in made.param_groups for each in group["params"]):
        made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Go on from `saved`, each moment laid out in memory as its parameter: on a CPU a fused kernel relies on it, unchecked."""
    optimizer.load_state_dict(saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)


def make_schedule(optimizer: torch.optim.Optimizer, optim: Optim, iterations_per_epoch: int) -> LRScheduler:
    """A schedule stepped after every optimizer step, fixed by the planned epochs.

    one_cycle is RAML's: one largest rate for all groups (which overwrites the 10 x of the GeM exponent) unless `group_rates`,
    division by 10 at the start and by 1e4 more at the end, peak at 30 %, momentum cycled (spec 7). exponential and steps change
    once an epoch (spec 5.5, 8.5). Raises `ConfigError` for steps without milestones.
    """
    if optim.schedule == "steps" and not optim.milestones:
        raise ConfigError("optim.schedule=steps, but optim.milestones is empty: give the epochs at which the rate falls")
    total = max(1, optim.epochs * iterations_per_epoch)
    per_epoch = max(1, iterations_per_epoch)
    peaks = [group["lr"] for group in optimizer.param_groups] if optim.group_rates else optim.lr
    makers: dict[str, Callable[[], LRScheduler]] = {
        "constant": lambda: LambdaLR(optimizer, lambda _: 1.0),
        "exponential": lambda: LambdaLR(optimizer, lambda step: optim.gamma ** (step // per_epoch + optim.decay_first)),
        "steps": lambda: LambdaLR(optimizer, lambda step: optim.gamma ** _passed(step // per_epoch, optim.milestones)),
        "cosine": lambda: CosineAnnealingLR(optimizer, total),
        "one_cycle": lambda: OneCycleLR(
            optimizer,
            peaks,
            total_steps=total,
            div_factor=optim.one_cycle_divisor,
            final_div_factor=1e4,
            pct_start=0.3,
            base_momentum=0.85,
        ),
    }
    return makers[optim.schedule]()


def _passed(epoch: int, milestones: tuple[int, ...]) -> int:
    return sum(epoch >= milestone for milestone in milestones)


_LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Mixed precision: an autocast for the forward pass and, for fp16 on a GPU, a gradient scaler."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._device = device.type
        self._dtype = _LOW.get(name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16" and device.type == "cuda")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which matrix products run in the chosen precision; nothing for fp32."""
        return torch.autocast(self._device, dtype=self._dtype) if self._dtype else contextlib.nullcontext()


def forward_precision(name: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """A context for a forward pass of its own precision, whatever surrounds it; "student": nothing changes."""
    if name == "student":
        return contextlib.nullcontext()
    dtype = _LOW.get(name)
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)


def optimizer_step(optimizer: torch.optim.Optimizer, precision: Precision, optim: Optim) -> None:
    """Unscale, clip, step, and clear the gradients."""
    if optim.clip:
        precision.scaler.unscale_(optimizer)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, optim.clip)
    precision.scaler.step(optimizer)
    precision.scaler.update()
    optimizer.zero_grad(set_to_none=True)


def steps_per_epoch(batches: int, optim: Optim) -> int:
    """Optimizer steps in an epoch of so many batches; a last incomplete accumulation still makes a step."""
    return math.ceil(batches / optim.accumulate)

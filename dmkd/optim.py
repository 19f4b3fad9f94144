"""Optimizers, parameter groups, schedules and mixed precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dmkd.space import Limit, OneOf, Range


@dataclass(frozen=True)
class Optim:
    """Optimisation of a run. Defaults are those of S2SD and OBD-SD (Adam with L2, no schedule)."""

    epochs: Annotated[int, Limit(minimum=1)] = 150
    optimizer: Annotated[str, OneOf(("adam", "adamw", "sgd"))] = "adam"
    """adam: L2 in the gradient (not decoupled), as the papers used it."""
    lr: Annotated[float, Range(1e-6, 1e-3, log=True), Limit(above=0)] = 1e-5
    head_lr: Annotated[float, Limit(minimum=0)] = 0.0
    """Rate of the embedding layer; 0: as `lr`."""
    weight_decay: Annotated[float, Limit(minimum=0)] = 4e-4
    schedule: Annotated[str, OneOf(("constant", "one_cycle", "exponential", "cosine"))] = "constant"
    gamma: Annotated[float, Limit(above=0, maximum=1)] = 0.99
    """Factor per epoch of the exponential schedule."""
    accumulate: Annotated[int, Limit(minimum=1)] = 1
    """Batches per optimizer step."""
    clip: Annotated[float, Limit(minimum=0)] = 0.0
    """Largest gradient norm; 0: no clipping."""
    precision: Annotated[str, OneOf(("fp32", "bf16", "fp16"))] = "fp32"
    channels_last: bool = True

"""Small pieces that several methods share: precision, similarity matrices, and the refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dmkd.distill.base import Shapes, Step
from dmkd.errors import ConfigError, ShapeError, TrainingError
from dmkd.models.embedder import Features

P = ParamSpec("P")
R = TypeVar("R")


def _lift(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, its half-precision tensors lifted to float32; float32 and float64 stay as they are."""

    @wraps(function)
    def lifted(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(_lift, args), **{key: _lift(value) for key, value in kwargs.items()})

    return lifted


@full_precision
def dot(x: Tensor) -> Tensor:
    """Similarity matrix [B, B] of x [B, D]: the plain dot product of the vectors as given."""
    return x @ x.T


@full_precision
def unit(x: Tensor) -> Tensor:
    """The rows of x [B, D] at unit length."""
    return F.normalize(x, dim=-1)


def detached(step: Step, method: str) -> Features:
    """The teacher's features without a graph. Raises `TrainingError` where the step carries none."""
    if step.teacher is None:
        raise TrainingError(f"{method}: the step carries no teacher features; give the run a teacher (teacher.checkpoint)")
    teacher = step.teacher
    # The embedding is made of all the others: without a graph on it there is none to cut, and a map need not be read.
    if not teacher.embedding.requires_grad:
        return teacher
    stages = {name: stage.detach() for name, stage in teacher.stages.items()}
    return Features(teacher.embedding.detach(), teacher.pooled.detach(), teacher.feature_map.detach(), stages)


def teacher_shapes(shapes: Shapes, method: str) -> Shapes:
    """The sizes of the teacher. Raises `ConfigError` where there is none."""
    if shapes.teacher is None:
        raise ConfigError(f"{method} learns from a pretrained teacher and found none: set teacher.checkpoint")
    return shapes.teacher


def require_same_dimension(shapes: Shapes, method: str) -> None:
    """Raise `ShapeError` with both numbers unless student and teacher embed into one dimension."""
    teacher = teacher_shapes(shapes, method)
    if shapes.embedding != teacher.embedding:
        raise ShapeError(
            f"{method} compares embeddings coordinate by coordinate: the student gives {shapes.embedding} dimensions, "
            f"the teacher {teacher.embedding}; set student.dim={teacher.embedding}"
        )

"""Where a method's teacher comes from: nowhere, a checkpoint, or the student one epoch ago."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from dmkd.checkpoint import load_model
from dmkd.errors import ConfigError
from dmkd.models import Teacher
from dmkd.models.embedder import EmbeddingNet, Features
from dmkd.models.folding import Folded


class NoTeacher:
    """For methods that learn without one, or from heads of their own."""

    network: EmbeddingNet | None = None
    resolution: int | None = None
    """Side of the view that the loader draws for the teacher; None: it draws none."""
    precision: str = "student"
    """Of its forward pass (`Teacher.precision`)."""

    def refresh(self, student: EmbeddingNet) -> None:
        """Called before each epoch."""

    def features(self, student_images: Tensor, teacher_images: Tensor | None, stages: tuple[str, ...]) -> Features | None:
        """The teacher's features of a batch, without graph; None where there is no teacher."""
        return None


class Pretrained(NoTeacher):
    """A frozen network from a checkpoint, in evaluation mode, with its own resolution and preprocessing.

    `network` is as it was saved; the forward pass of a step has its batch-norms folded (`models.folding`).
    """

    def __init__(self, teacher: Teacher, device: torch.device) -> None:
        if not teacher.checkpoint:
            raise ConfigError(
                "teacher.checkpoint is empty, but this method learns from a pretrained teacher: give a checkpoint folder"
            )
        network, info = load_model(teacher.checkpoint, frozen=True)
        self.network = network.to(device).eval().requires_grad_(False)
        self.resolution: int | None = teacher.resolution or int(info["resolution"])
        self.precision = teacher.precision
        self._forward = Folded(self.network)

    def features(self, student_images: Tensor, teacher_images: Tensor | None, stages: tuple[str, ...]) -> Features | None:
        """Features of the teacher's view of the batch; None where the method works with stored features instead."""
        return None if teacher_images is None else self._forward(teacher_images, stages)


class PreviousEpoch(NoTeacher):
    """The student as it was when the epoch began, on the same augmented batch (OBD-SD Sec. 3.2; spec 8.2).

    In the first epoch it equals the starting student; OBD-SD's weight is 0 there. It is in evaluation mode, which the released
    code forgets: without consequence where batch-norm is frozen, as in all of the paper's runs. So its batch-norms may be folded
    in each epoch anew.
    """

    def __init__(self, teacher: Teacher, device: torch.device) -> None:
        self.network = None
        self.precision = teacher.precision
        self._forward: Folded | None = None

    def refresh(self, student: EmbeddingNet) -> None:
        """Copy the student."""
        if self.network is None:
            self.network = copy.deepcopy(student).requires_grad_(False)
        self.network.load_state_dict(student.state_dict())
        self._forward = Folded(self.network.eval())

    def features(self, student_images: Tensor, teacher_images: Tensor | None, stages: tuple[str, ...]) -> Features | None:
        """Features of the student's own view."""
        return None if self._forward is None else self._forward(student_images, stages)


def _none(teacher: Teacher, device: torch.device) -> NoTeacher:
    return NoTeacher()


TEACHERS: dict[str, Any] = {"none": _none, "pretrained": Pretrained, "previous_epoch": PreviousEpoch}
"""`Method.teacher` -> a maker `(Teacher, device) -> NoTeacher`."""

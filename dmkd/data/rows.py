"""From positions to tensors: the rows of a training batch at both resolutions, and of a test batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmkd.data.cache import shared_cache
from dmkd.data.pictures import Labels, Pictures
from dmkd.data.views import Pixels, Views, apply_view, centre_view, draw_partner, draw_view, generator, to_unit

PLAN, VIEW, TEACHER_VIEW, MIXUP = range(4)
"""Streams of the keyed generators: the plan of an epoch, a view, the teacher's own where uncoupled, mixup."""

Mixed = tuple[Pixels, Pixels | None, float]
"""A view, its mixup partner, and its own weight."""
Place = tuple[int, int]
"""Position in the epoch, view: what a view's draws are keyed with, beside the seed and the epoch."""


@dataclass(frozen=True, eq=False)
class RowMaker:
    """Views of a training part's pictures, at the student's and at the teacher's size."""

    part: Pictures
    views: Views
    student_size: int
    teacher_size: int | None
    key: tuple[int, int]
    """Seed, epoch."""
    crop_ratio: float

    def images(self, index: Labels, places: Sequence[Place]) -> tuple[Tensor, Tensor | None]:
        """[R, 3, s, s] and [R, 3, t, t] float32 in [0, 1]; one tensor twice where both are the same."""
        student = _stack([self._view(*row, VIEW, self.student_size) for row in zip(index.tolist(), places, strict=True)])
        if self.teacher_size is None:
            return student, None
        if self.views.coupled and self.teacher_size == self.student_size:
            return student, student
        stream = VIEW if self.views.coupled else TEACHER_VIEW
        return student, _stack([self._view(*row, stream, self.teacher_size) for row in zip(index.tolist(), places, strict=True)])

    def _view(self, index: int, place: Place, stream: int, size: int) -> Mixed:
        """A view, and its mixup partner's under the same draw; partner and weight are the same at both sizes."""
        draw = draw_view(self.views, generator(*self.key, stream, *place))

        def make(position: int) -> Pixels:
            picture = shared_cache().open(self.part.file(position))
            return centre_view(picture, size, self.crop_ratio) if draw is None else apply_view(picture, draw, size)

        if self.views.mixup == 0:
            return make(index), None, 1.0
        partner, weight = draw_partner(self.views, len(self.part), generator(*self.key, MIXUP, *place))
        return make(index), make(partner), weight


def _stack(rows: Sequence[Mixed]) -> Tensor:
    own = to_unit([row[0] for row in rows])
    if rows[0][1] is None:
        return torch.from_numpy(own)
    weight = np.array([row[2] for row in rows], dtype=np.float32).reshape(-1, 1, 1, 1)
    return torch.from_numpy(weight * own + (1 - weight) * to_unit([row[1] for row in rows if row[1] is not None]))


@dataclass(frozen=True, eq=False)
class TestRows:
    """Chunks of pictures under the test transform, by number of the chunk."""

    __test__ = False  # not a test class, whatever pytest takes the name for

    part: Pictures
    chunks: list[Labels]
    resolution: int
    crop_ratio: float
    interpolation: str

    def __call__(self, number: int) -> Tensor:
        """[B, 3, resolution, resolution] of a chunk."""
        pictures = (shared_cache().open(self.part.file(position)) for position in self.chunks[number].tolist())
        return torch.from_numpy(
            to_unit([centre_view(each, self.resolution, self.crop_ratio, self.interpolation) for each in pictures])
        )

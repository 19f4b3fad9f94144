"""From positions to tensors: the rows of a training batch at both resolutions, and of a test batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmkd.data import CLEAN, Quality
from dmkd.data.boxes import cut_to_box
from dmkd.data.pictures import Labels, Pictures
from dmkd.data.reading import Found, read_picture, readable_rows
from dmkd.data.views import (
    Pixels,
    Views,
    apply_view,
    centre_view,
    degrade,
    draw_partner,
    draw_view,
    generator,
    to_unit,
)

PLAN, VIEW, TEACHER_VIEW, MIXUP, TEACHER_MIXUP = range(5)
"""Streams of the keyed generators: the plan of an epoch, a view and mixup, and the teacher's own two where uncoupled."""

Place = tuple[int, int]
"""Position in the epoch, view: what a view's draws are keyed with, beside the seed and the epoch."""


class Look(NamedTuple):
    """How one side sees a picture."""

    stream: int
    """Of its draws."""
    size: int
    quality: Quality
    interpolation: str
    """Filter of the test transform; empty: pictures are augmented."""


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
    qualities: tuple[Quality, Quality] = (CLEAN, CLEAN)
    """The student's, the teacher's."""
    short_side: int = 0
    """Of pictures that augmented views are cut from (0: as they are)."""
    raw: bool = False
    """Give uint8 in 0 .. 255, where nothing is mixed."""
    filters: tuple[str, str] = ("bilinear", "bilinear")
    """The student's, the teacher's, of pictures that are not augmented."""

    def images(self, index: Labels, places: Sequence[Place]) -> tuple[Tensor, Tensor | None]:
        """[R, 3, s, s] and [R, 3, t, t] float32 in [0, 1]; one tensor twice where both are the same."""
        rows = list(zip(index.tolist(), places, strict=True))
        filters = self.filters if self.views.augmentation == "none" else ("", "")
        own = Look(VIEW, self.student_size, self.qualities[0], filters[0])
        student = self._stacked(rows, own)
        if self.teacher_size is None:
            return student, None
        stream = VIEW if self.views.coupled else TEACHER_VIEW
        other = Look(stream, self.teacher_size, self.qualities[1], filters[1])
        return student, student if other == own else self._stacked(rows, other)

    def _stacked(self, rows: Sequence[tuple[int, Place]], look: Look) -> Tensor:
        """The views of all rows; mixup's partner and weight are the same at both sizes, but where views are uncoupled."""
        views = [self._view(position, place, look) for position, place in rows]
        if self.raw and self.views.mixup == 0:
            return _as_bytes(views)
        own = to_unit(views)
        if self.views.mixup == 0:
            return torch.from_numpy(own)
        mixed = self._mixed([place for _, place in rows], look.stream)
        if self.views.mixup_partner == "next":
            partners = np.roll(own, -self.views.per_image, axis=0)
        else:
            shown = zip(mixed, rows, strict=True)
            partners = to_unit([self._view(partner, place, look) for (partner, _), (_, place) in shown])
        weight = np.array([weight for _, weight in mixed], dtype=np.float32).reshape(-1, 1, 1, 1)
        return torch.from_numpy(weight * own + (1 - weight) * partners)

    def _mixed(self, places: Sequence[Place], stream: int) -> list[tuple[int, float]]:
        key = (*self.key, MIXUP if stream == VIEW else TEACHER_MIXUP)
        return [draw_partner(self.views, len(self.part), generator(*key, *place)) for place in places]

    def partners(self, places: Sequence[Place]) -> list[tuple[int, ...]]:
        """The other training positions that are shown in each row: what it is mixed with, by either side."""
        if self.views.mixup == 0 or self.views.mixup_partner == "next":
            return [()] * len(places)
        streams = (VIEW,) if self.views.coupled or self.teacher_size is None else (VIEW, TEACHER_VIEW)
        drawn = [[partner for partner, _ in self._mixed(places, stream)] for stream in streams]
        return list(zip(*drawn, strict=True))

    def _view(self, position: int, place: Place, look: Look) -> Pixels:
        draw, quality = draw_view(self.views, generator(*self.key, look.stream, *place)), look.quality
        if draw is None:
            picture = Image.fromarray(_open(self.part, position, quality))
            view = centre_view(picture, look.size, self.crop_ratio, look.interpolation)
        else:
            view = apply_view(_open(self.part, position, quality, self.short_side), draw, look.size)
        return degrade(view, quality.degraded_size) if quality.degraded_size else view


def _as_bytes(views: Sequence[Pixels]) -> Tensor:
    """[R, 3, s, s] uint8, channels last in memory."""
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)


def _open(part: Pictures, position: int, quality: Quality, short_side: int = 0) -> Pixels:
    picture = read_picture(part, position, short_side)
    if part.boxes is None or not quality.boxes:
        return picture
    return cut_to_box(picture, part.boxes[position].tolist(), part.file(position))


@dataclass(frozen=True, eq=False)
class TestRows:
    """Chunks of pictures under the test transform, by number of the chunk."""

    __test__ = False  # not a test class, whatever pytest takes the name for

    part: Pictures
    chunks: list[Labels]
    resolution: int
    crop_ratio: float
    interpolation: str
    quality: Quality = CLEAN
    raw: bool = False
    """Give uint8 in 0 .. 255."""

    def __call__(self, number: int) -> tuple[Tensor | None, Found]:
        """[B, 3, resolution, resolution] of what can be read of a chunk (None: nothing), and what cannot."""
        rows, found = readable_rows(self.part, self.chunks[number].tolist(), self._view)
        if not rows:
            return None, found
        return _as_bytes(rows) if self.raw else torch.from_numpy(to_unit(rows)), found

    def _view(self, position: int) -> Pixels:
        picture = Image.fromarray(_open(self.part, position, self.quality))
        view = centre_view(picture, self.resolution, self.crop_ratio, self.interpolation)
        return degrade(view, self.quality.degraded_size) if self.quality.degraded_size else view

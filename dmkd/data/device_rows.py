"""The rows of a training batch made on the device, out of the pictures that lie there; drawn on the host, sent as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmkd.data import Quality
from dmkd.data.boxes import box_inside
from dmkd.data.device_jitter import Colours
from dmkd.data.device_views import Crops, degraded, resize_crops
from dmkd.data.pictures import Labels
from dmkd.data.resident import ResidentPictures
from dmkd.data.rows import TEACHER_VIEW, VIEW, Place, RowMaker
from dmkd.data.views import Draw, crop_box, draw_view, generator
from dmkd.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn of V views (with mixup's random partners the rows of a batch, then their partners), for any size."""

    crops: NDArray[np.float64]
    """[V, 6] `Crops.numbers`, for the host's own use."""
    sent: Tensor
    """[V, 6 or 20] the same on the device, with those of `colours`."""
    colours: Colours | None
    weights: Tensor | None
    """[R, 1, 1, 1] mixup's, of the picture itself."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceRowMaker(RowMaker):
    """`RowMaker` with augmented views made on the device of `pictures`: the same draws, float32 in [0, 1]."""

    pictures: ResidentPictures

    def images(self, index: Labels, places: Sequence[Place]) -> tuple[Tensor, Tensor | None]:
        """[R, 3, s, s] and [R, 3, t, t] float32 in [0, 1]; one tensor twice where both are the same."""
        own, other = self.qualities
        drawn = self._drawn(index, places, VIEW, own.boxes)
        student = self._made(drawn, self.student_size, own)
        if self.teacher_size is None:
            return student, None
        if self.views.coupled and self.teacher_size == self.student_size and own == other:
            return student, student
        if not self.views.coupled or own.boxes != other.boxes:
            drawn = self._drawn(index, places, VIEW if self.views.coupled else TEACHER_VIEW, other.boxes)
        return student, self._made(drawn, self.teacher_size, other)

    def _drawn(self, index: Labels, places: Sequence[Place], stream: int, boxes: bool) -> Drawn:
        positions, weights = index.tolist(), None
        draws = [draw_view(self.views, generator(*self.key, stream, *place)) for place in places]
        if self.views.mixup:
            mixed = self._mixed(places, stream)
            weights = np.array([weight for _, weight in mixed], dtype=np.float32).reshape(-1, 1, 1, 1)
            if self.views.mixup_partner == "random":
                positions, draws = positions + [partner for partner, _ in mixed], draws * 2
        crops = self._crops(positions, _augmented(draws), boxes).numbers()
        jitters = [draw.jitter for draw in draws if draw is not None and draw.jitter is not None]
        colours = Colours(jitters) if jitters else None
        numbers = np.hstack([crops, colours.numbers]) if colours else crops
        return Drawn(crops, self._sent(numbers), colours, None if weights is None else self._sent(weights))

    def _crops(self, positions: Sequence[int], draws: Sequence[Draw], boxes: bool) -> Crops:
        """Where the views are cut: the same boxes as on the host."""
        found = [self._box(position, draw, boxes) for position, draw in zip(positions, draws, strict=True)]
        left, top, width, height = np.array(found, dtype=np.int64).T
        stride = 3 * self.pictures.widths[positions]
        first = self.pictures.starts[positions] + top * stride + 3 * left
        return Crops(first, stride, height, width, np.array([draw.flip for draw in draws]))

    def _box(self, position: int, draw: Draw, boxes: bool) -> tuple[int, int, int, int]:
        width, height = int(self.pictures.widths[position]), int(self.pictures.heights[position])
        if not boxes or self.part.boxes is None:
            return crop_box(draw.tries, width, height, draw.min_scale)
        box, file = self.part.boxes[position].tolist(), self.part.file(position)
        left, top, right, bottom = box_inside(width, height, box, file)
        x, y, across, down = crop_box(draw.tries, right - left, bottom - top, draw.min_scale)
        return left + x, top + y, across, down

    def _sent(self, numbers: NDArray[np.float64] | NDArray[np.float32]) -> Tensor:
        """On the device; from pinned memory, since a GPU would else be waited for."""
        there = torch.from_numpy(numbers)
        device = self.pictures.pixels.device
        return (there.pin_memory() if device.type == "cuda" else there).to(device, non_blocking=True)

    def _made(self, drawn: Drawn, size: int, quality: Quality) -> Tensor:
        views = resize_crops(self.pictures.pixels, drawn.crops, drawn.sent[:, :6], size)
        if drawn.colours:
            views = drawn.colours.apply(views, drawn.sent[:, 6:])
        if quality.degraded_size:
            views = degraded(views, quality.degraded_size)
        views = views.div_(255)
        if drawn.weights is None:
            return views
        count = len(drawn.weights)
        own, partners = views[:count], views[count:]
        if self.views.mixup_partner == "next":
            partners = own.roll(-self.views.per_image, 0)
        return drawn.weights * own + (1 - drawn.weights) * partners


def _augmented(draws: Sequence[Draw | None]) -> list[Draw]:
    made = [draw for draw in draws if draw is not None]
    if len(made) < len(draws):
        raise ConfigError(
            "views on the device: found views.augmentation=none, the test transform, wanted crops; leave pictures out"
        )
    return made

"""Crops of many pictures resized at once, where the pictures lie: two products with matrices of Pillow's antialiased filter.

What was drawn comes from the host as numbers; nothing here looks at a value on the device, so that a GPU is never waited for.
Views are float32 of whole numbers in 0 .. 255: rounded where bytes would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LIMIT = 2**24
"""Values of crops, as float32, that are resized at a time."""


@dataclass(frozen=True, eq=False)
class Crops:
    """R crops of pictures in a flat buffer; in bytes where it says so, else in pixels."""

    first: NDArray[np.int64]
    """[R] where the upper left pixel begins, in bytes."""
    stride: NDArray[np.int64]
    """[R] from one row of the picture to the next, in bytes."""
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    flip: NDArray[np.bool_]

    def numbers(self) -> NDArray[np.float64]:
        """[R, 6] all that the device has to know, smaller crops first, and in the last column whose row each is.

        As float64, which holds every place in a buffer of less than 8 PB.
        """
        order = np.argsort(self.height * self.width, kind="stable")
        columns = (self.first, self.stride, self.height, self.width, self.flip)
        return np.stack([*(column[order].astype(np.float64) for column in columns), order.astype(np.float64)], axis=1)


def chunks(numbers: NDArray[np.float64]) -> Iterator[tuple[int, int, int, int]]:
    """Start, stop, greatest height and width of runs of crops [R, 6] that fit `LIMIT` together, each padded to the greatest."""
    start = height = width = 0
    for place, (own_height, own_width) in enumerate(numbers[:, 2:4].astype(np.int64).tolist()):
        higher, wider = max(height, own_height), max(width, own_width)
        if place > start and 3 * higher * wider * (place + 1 - start) > LIMIT:
            yield start, place, height, width
            start, higher, wider = place, own_height, own_width
        height, width = higher, wider
    if len(numbers):
        yield start, len(numbers), height, width


def resize_crops(pixels: Tensor, host: NDArray[np.float64], numbers: Tensor, size: int) -> Tensor:
    """[R, 3, size, size] views of the crops in `pixels`, a flat buffer of uint8.

    `numbers` [R, 6] are those of `Crops.numbers` on the device of `pixels`, `host` the same on the host. Bilinear, antialiased,
    nothing beyond a crop's edge, as in `views.apply_view`; rounded once, where Pillow rounds twice: at most 1 apart.
    """
    views = torch.empty(len(host), 3, size, size, device=pixels.device)
    for start, stop, height, width in chunks(host):
        own = numbers[start:stop]
        views.index_copy_(0, own[:, 5].long(), _resized(pixels, own, height, width, size))
    return _rounded(views)


def _resized(pixels: Tensor, numbers: Tensor, height: int, width: int, size: int) -> Tensor:
    """[n, 3, size, size] of n crops of at most height x width pixels."""
    first, stride = numbers[:, :2].long().unbind(1)
    down, across, flip = numbers[:, 2:5].float().unbind(1)
    # Rows beyond a crop's own are its last one again: read from within the buffer, and of no weight.
    row = torch.arange(height, device=pixels.device).minimum(numbers[:, 2:3].long() - 1)
    begins = (first[:, None] + row * stride[:, None]).reshape(-1)
    windows = pixels.as_strided((len(pixels) - 3 * width + 1, 3 * width), (1, 1))
    shown = windows.index_select(0, begins).view(-1, height, 3 * width).float()
    # Rows first: bytes lie so that all of a row, its colours too, is one column of the product.
    low = resize_weights(down, size, height) @ shown
    planes = low.view(-1, size, width, 3).permute(0, 3, 1, 2).reshape(-1, 3 * size, width)
    return (planes @ resize_weights(across, size, width, flip).transpose(1, 2)).view(-1, 3, size, size)


def resize_weights(length: Tensor, count: int, extent: int, flip: Tensor | None = None) -> Tensor:
    """[n, count, extent] weights that take the first `length` [n] of `extent` values to `count`, mirrored where `flip` is 1.

    The triangle filter, as wide as the reduction, its weights made to sum to 1 (Pillow's `BILINEAR`; torch's with antialias).
    """
    scale, whole = length[:, None] / count, length[:, None]
    centre = (torch.arange(count, device=length.device) + 0.5) * scale
    if flip is not None:
        centre = torch.where(flip[:, None] > 0, whole - centre, centre)
    place = torch.arange(extent, device=length.device) + 0.5
    weights = (1 - (place - centre[..., None]).abs_() / scale.clamp(min=1)[..., None]).clamp_(min=0)
    weights = weights * (place < whole)[:, None]
    return weights.div_(weights.sum(-1, keepdim=True))


def degraded(views: Tensor, size: int) -> Tensor:
    """Square views [R, 3, s, s] reduced to `size` and enlarged to s again, as `views.degrade` does, rounded once."""
    side = views.shape[-1]
    ends = {count: torch.full((1,), float(count), device=views.device) for count in (side, size)}
    through = (resize_weights(ends[size], side, size) @ resize_weights(ends[side], size, side))[0]
    return _rounded(through @ views @ through.T)


def _rounded(views: Tensor) -> Tensor:
    """Halves go up, as in Pillow: at a reduction by 2 they are many."""
    return views.add_(0.5).floor_()

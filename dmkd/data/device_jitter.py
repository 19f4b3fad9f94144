"""Colour jitter of a batch at once: brightness, contrast, saturation and hue, in each row's own order.

Images are float32 of whole numbers in 0 .. 255, and every step rounds as Pillow's does on bytes (`views.apply_jitter`): from the
same view all but one value in some hundreds come out equal, the others at most 10 apart (a byte of hue is 6 of a channel).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmkd.data.views import Jitter

STEPS = 4
CONTRAST, SATURATION, HUE = 1, 2, 3
"""Numbers of the steps in `Jitter.order`; 0 is brightness."""
GREY = (19595, 38470, 7471)
"""Shares of red, green and blue in a pixel's grey, of 65,536 (ITU-R 601-2, as Pillow converts to L)."""


class Colours:
    """The jitter of R rows as numbers for the device."""

    def __init__(self, jitters: Sequence[Jitter]) -> None:
        order = np.array([jitter.order for jitter in jitters])
        factors = np.array([(jitter.brightness, jitter.contrast, jitter.saturation, 1.0) for jitter in jitters])
        hues = np.array([[int(jitter.hue * 255)] for jitter in jitters])
        place = (order == HUE).argmax(axis=1)
        turned = np.argsort(place, kind="stable")[:, None]
        blends = (np.take_along_axis(factors, order, axis=1), order == CONTRAST, order == SATURATION)
        self.numbers: NDArray[np.float64] = np.hstack([*blends, hues, turned])
        """[R, 14] of each step the factor, and 1 where it is contrast and where it is saturation; the turn of the hue; and the
        rows by the step at which their hue is turned."""
        self.turns: list[int] = np.bincount(place, minlength=STEPS).tolist()
        """Rows whose hue is turned at each step."""

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """The images [R, 3, h, w] jittered; `numbers` [R, 14] are those of this object on their device."""
        factor, contrast, saturation = numbers[:, :12].to(images.dtype).view(-1, 3, STEPS, 1, 1, 1).unbind(1)
        hue, rows, start = numbers[:, 12].to(images.dtype), numbers[:, 13].long(), 0
        for step, count in enumerate(self.turns):
            images = _blended(images, factor[:, step], contrast[:, step], saturation[:, step])
            own = rows[start : start + count]
            images.index_copy_(0, own, turn_hue(images.index_select(0, own), hue.index_select(0, own)))
            start += count
        return images


def _blended(images: Tensor, factor: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Away from black, from the mean grey (contrast) or from each pixel's grey (saturation), by `factor`; clipped."""
    red, green, blue = images.unbind(1)
    grey = ((GREY[0] * red + GREY[1] * green + GREY[2] * blue + 32768) / 65536).floor_()[:, None]
    mean = (grey.mean((2, 3), keepdim=True) + 0.5).floor_()
    base = saturation * grey + contrast * mean
    return (images - base).mul_(factor).add_(base).clamp_(0, 255).floor_()


def turn_hue(images: Tensor, steps: Tensor) -> Tensor:
    """Turn the hue of RGB images [n, 3, h, w] by `steps` [n] of the 256 of the colour circle, as `views.turn_hue` does."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = chroma.clamp(min=1)
    rest = torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    sixths = torch.where(value == red, (green - blue) / safe, rest)
    hue = ((sixths / 6 % 1 * 255).floor_() + steps[:, None, None]) % 256 * (6 / 255)
    # From here on value x saturation, of which Pillow keeps a byte.
    chroma = value * (chroma / value.clamp(min=1) * 255).floor_() / 255
    away = [(hue + place) % 6 for place in (5, 3, 1)]  # a channel is full within a sixth of the circle around its own place
    return torch.stack([(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)).round_() for k in away], dim=1)

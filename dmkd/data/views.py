"""What the loader draws of a picture: augmented views at the student's and at the teacher's resolution.

A view is drawn once, as numbers that do not depend on any size (`Draw`), by a generator keyed with (seed, epoch, position in the
epoch, view). It is then applied to the original picture once per resolution, so that student and teacher see the same crop, flip
and jitter, and two processes, or a resumed run, draw the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import nn

from dmkd.errors import ConfigError
from dmkd.space import Limit, OneOf

Pixels = NDArray[np.uint8]
"""[size, size, 3] RGB."""
Box = tuple[int, int, int, int]
"""left, top, width, height, in pixels of the original picture."""

RATIO = (3 / 4, 4 / 3)
"""Aspect ratios of the random crop (Inception's, as in torchvision)."""
TRIES = 10
"""Draws of a crop that fits, before the centre is taken."""
JITTER = 0.4
"""Brightness, contrast and saturation factors lie in 1 -+ this (RAML's code)."""
HUE = 0.1
"""Largest turn of the hue, in turns."""

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
"""Filters of the test transform; all are antialiased."""


@dataclass(frozen=True)
class Views:
    """Augmentation of training pictures.

    Every view is drawn once (crop box in source coordinates, flip, jitter) and applied at both resolutions, so that student and
    teacher see the same crop; `coupled=False` draws the teacher's anew (RAML's ablation).
    """

    per_image: Annotated[int, Limit(minimum=1)] = 1
    coupled: bool = True
    augmentation: Annotated[str, OneOf(("crop_flip", "crop_flip_jitter", "none"))] = "crop_flip"
    min_scale: Annotated[float, Limit(above=0, maximum=1)] = 0.08
    """Smallest area share of the random resized crop."""
    mixup: Annotated[float, Limit(minimum=0)] = 0.0
    """Beta(a, a) of mixing with another training picture; 0: off."""
    mixup_partner: Annotated[str, OneOf(("random", "next"))] = "random"
    """random: any training picture, drawn for each view and shown under the view's own draw (RAML as released); next: the same
    view of the batch's next picture, as it is (RAML's text)."""
    teacher: bool = True
    """Draw the teacher's view in each step (off where its features are stored)."""


@dataclass(frozen=True)
class Jitter:
    """Colour jitter: factors of brightness, contrast and saturation, turns of hue, and the order in which they are applied."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Draw:
    """The random numbers of one view; what they give depends on the picture's size only through `crop_box`."""

    tries: NDArray[np.float64]
    """[10, 4] uniform in [0, 1): area, aspect, left, top of each try."""
    min_scale: float
    flip: bool
    jitter: Jitter | None


def generator(*key: int) -> np.random.Generator:
    """A fresh generator for a key of whole numbers, independent of that of every other key of the same length."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def draw_view(views: Views, rng: np.random.Generator) -> Draw | None:
    """The numbers of one augmented view; None for the test transform (`augmentation="none"`)."""
    if views.augmentation == "none":
        return None
    tries, flip = rng.random((TRIES, 4)), bool(rng.random() < 0.5)
    return Draw(tries, views.min_scale, flip, _draw_jitter(rng) if views.augmentation == "crop_flip_jitter" else None)


def _draw_jitter(rng: np.random.Generator) -> Jitter:
    brightness, contrast, saturation = (float(factor) for factor in rng.uniform(1 - JITTER, 1 + JITTER, 3))
    order = tuple(int(step) for step in rng.permutation(4))
    return Jitter(brightness, contrast, saturation, float(rng.uniform(-HUE, HUE)), order)


def draw_partner(views: Views, images: int, rng: np.random.Generator) -> tuple[int, float]:
    """Mixup of one view: a training position, uniform over all, and the weight Beta(a, a) of the picture itself."""
    return int(rng.integers(images)), float(rng.beta(views.mixup, views.mixup))


def crop_box(tries: NDArray[np.float64], width: int, height: int, min_scale: float) -> Box:
    """The random resized crop as torchvision defines it: the first of the tries that fits, else the largest allowed centre crop.

    Area share uniform in [min_scale, 1], logarithm of the aspect ratio uniform in [log 3/4, log 4/3], corner uniform over pixels.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for area, aspect, left, top in tries.tolist():
        target = width * height * (min_scale + area * (1 - min_scale))
        ratio = math.exp(low + aspect * (high - low))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(left * (width - w + 1)), int(top * (height - h + 1)), w, h
    return _centre_box(width, height)


def _centre_box(width: int, height: int) -> Box:
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def apply_view(picture: Image.Image | Pixels, draw: Draw, size: int) -> Pixels:
    """A view of `picture` at `size` x `size`: cropped from the original, resized (bilinear, antialiased), flipped, jittered.

    Pixels [h, w, 3] are resized by torch, three times faster than a picture by Pillow: the same filter, of which some values
    round to the other neighbour (at most 1 of 255 apart).
    """
    view = _crop_pixels(picture, draw, size) if isinstance(picture, np.ndarray) else _crop_picture(picture, draw, size)
    if draw.jitter:
        return np.asarray(apply_jitter(Image.fromarray(view), draw.jitter))
    return view


def _crop_picture(picture: Image.Image, draw: Draw, size: int) -> Pixels:
    left, top, width, height = crop_box(draw.tries, picture.width, picture.height, draw.min_scale)
    # Cropping first keeps the filter from reaching over the crop's edge, as Image.resize(box=...) would let it.
    view = picture.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.flip else view)


def _crop_pixels(pixels: Pixels, draw: Draw, size: int) -> Pixels:
    left, top, width, height = crop_box(draw.tries, pixels.shape[1], pixels.shape[0], draw.min_scale)
    part = _tensor(pixels[top : top + height, left : left + width])
    # A batch of one with channels last, in its strides too: so torch resizes and flips bytes with vector instructions.
    batch = part[None].permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(batch, (size, size), mode="bilinear", antialias=True)
    view: Pixels = (resized.flip(3) if draw.flip else resized)[0].permute(1, 2, 0).numpy()
    return view


def apply_jitter(picture: Image.Image, jitter: Jitter) -> Image.Image:
    """Brightness, contrast, saturation and hue, in the drawn order, on 8-bit pixels (as torchvision does on PIL images)."""
    steps = (
        lambda image: ImageEnhance.Brightness(image).enhance(jitter.brightness),
        lambda image: ImageEnhance.Contrast(image).enhance(jitter.contrast),
        lambda image: ImageEnhance.Color(image).enhance(jitter.saturation),
        lambda image: turn_hue(image, jitter.hue),
    )
    for step in jitter.order:
        picture = steps[step](picture)
    return picture


def turn_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Turn the hue of an RGB picture by `turns` of the colour circle (256 steps)."""
    hue, saturation, value = picture.convert("HSV").split()
    shift = int(turns * 255) % 256
    turned = hue.point([(step + shift) % 256 for step in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def centre_view(picture: Image.Image, size: int, crop_ratio: float, interpolation: str = "bilinear") -> Pixels:
    """The test transform: short side to round(size / crop_ratio), keeping the aspect ratio, then the centre square."""
    short = max(size, round(size / crop_ratio))
    width, height = (int(short * side / min(picture.size)) for side in picture.size)
    resized = picture.resize((width, height), INTERPOLATIONS[interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def max_side_view(picture: Image.Image, size: int, whole: int = 0) -> Pixels:
    """[h, w, 3] the picture with its longer side reduced to `size`, never enlarged, its ratio kept (Lanczos, as in the field).

    A picture that was cut out of one whose longer side had `whole` pixels is reduced by the factor of that one.
    """
    limit = size * max(picture.size) / whole if whole else size
    reduced = picture.copy()
    reduced.thumbnail((max(1, limit), max(1, limit)), Image.Resampling.LANCZOS, reducing_gap=None)
    return np.asarray(reduced)


def _tensor(pixels: Pixels) -> torch.Tensor:
    """The pixels, not copied, for reading alone: they may be mapped from a file, of which torch warns."""
    if pixels.flags.writeable:
        return torch.from_numpy(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(pixels)


def degrade(view: Pixels, size: int) -> Pixels:
    """A view reduced to `size` x `size` and enlarged to its own sides again (bilinear; Yu et al. 2019, Sec. 5.4)."""
    small = Image.fromarray(view).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((view.shape[1], view.shape[0]), Image.Resampling.BILINEAR))


def check_degraded(size: int, resolution: int) -> None:
    """Raise `ConfigError` where reducing a view of `resolution` pixels to `size` (0: off) would take nothing from it."""
    if size >= resolution:
        raise ConfigError(
            f"data.degraded_size: found {size}, wanted less than the {resolution} pixels at which the degraded side looks; "
            "lower it, raise student.resolution, or set data.degradation=none"
        )


def to_unit(views: Sequence[Pixels]) -> NDArray[np.float32]:
    """[R, 3, size, size] float32 in [0, 1] of R views; channels lie last in memory, as in the views and as networks want them."""
    made = np.empty((len(views), *views[0].shape), dtype=np.float32)
    for row, view in zip(torch.from_numpy(made), views, strict=True):
        row.copy_(_tensor(np.ascontiguousarray(view))).div_(255)
    return made.transpose(0, 3, 1, 2)

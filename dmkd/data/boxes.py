"""Boxes of objects in pictures: what of a box lies inside, and the picture cut to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmkd.errors import DataError

Shown = TypeVar("Shown", Image.Image, NDArray[np.uint8])
"""A decoded picture in either form."""


def box_inside(width: int, height: int, box: Sequence[int], path: str) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what lies inside a picture of `box` (left, top, width, height; a width of 0: there is none,
    the whole picture). Raises `DataError` naming `path` where nothing does.
    """
    left, top, across, down = (int(side) for side in box)
    if across == 0:
        return 0, 0, width, height
    right, bottom = min(left + across, width), min(top + down, height)
    if left >= right or top >= bottom:
        raise DataError(
            f"{path}: its box (left {left}, top {top}, width {across}, height {down}) lies outside the picture of "
            f"{width} x {height} pixels; mend the box"
        )
    return left, top, right, bottom


def cut_to_box(picture: Shown, box: Sequence[int], path: str) -> Shown:
    """The part of `picture` inside `box`, as `box_inside` has it. Raises `DataError` naming `path` where nothing remains."""
    width, height = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
    inside = left, top, right, bottom = box_inside(width, height, box, path)
    if inside == (0, 0, width, height):
        return picture
    return picture[top:bottom, left:right] if isinstance(picture, np.ndarray) else picture.crop(inside)

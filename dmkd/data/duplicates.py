"""Pictures that are the same, or nearly, on both sides of a split: found by hashes of their bytes and of what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]

SIDE = 32
"""Pixels a side of the grey picture that is transformed."""
BITS = 8
"""Lowest frequencies a side that make the hash, 64 in all."""
NEAR = 6
"""Bits in which two pictures may differ and still be near-duplicates; two that have nothing in common differ in about 32."""
TOGETHER = 2**21
"""Pairs compared at once."""


def phash(picture: Image.Image) -> int:
    """64 bits that survive resizing, compression and slight changes of colour (Zauner 2010, "Implementation and Benchmarking of
    Perceptual Image Hash Functions"): which of the 8 x 8 lowest frequencies of the grey picture of 32 x 32 pixels lie above their
    median. The mean brightness is one of them, but not part of the median."""
    grey = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float64)
    low = (_cosines() @ grey @ _cosines().T).reshape(-1)
    return int(np.packbits(low > np.median(low[1:])).view(">u8")[0])


@cache
def _cosines() -> Floats:
    """[8, 32] the lowest rows of the discrete cosine transform (type II)."""
    frequency, place = np.mgrid[:BITS, :SIDE]
    cosines: Floats = np.cos(math.pi * frequency * (2 * place + 1) / (2 * SIDE))
    return cosines


def near_pairs(left: Hashes, right: Hashes, *, within: int = NEAR, most: int = 10_000) -> list[tuple[int, int, int]]:
    """(i, j, bits) of all pairs left[i], right[j] that differ in at most `within` bits, nearest first; at most `most` of them.

    Every pair is compared, a block at a time: 60,000 x 60,000 take seconds, in a few megabytes.
    """
    found: list[tuple[int, int, int]] = []
    rows = max(1, TOGETHER // max(1, len(right)))
    for start in range(0, len(left), rows):
        apart = np.bitwise_count(left[start : start + rows, None] ^ right[None, :])
        for i, j in np.argwhere(apart <= within).tolist():
            found.append((start + i, j, int(apart[i, j])))
        if len(found) >= most:
            break
    return sorted(found[:most], key=lambda pair: (pair[2], *pair[:2]))


def same_bytes(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """(i, j) for every j whose hash is also one of `left`, the first of these."""
    first: dict[str, int] = {}
    for position, digest in enumerate(left):
        first.setdefault(digest, position)
    return [(first[digest], position) for position, digest in enumerate(right) if digest in first]

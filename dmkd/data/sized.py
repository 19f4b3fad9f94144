"""Whole pictures of their own sizes (`data.transform=max_side`), in training and in test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmkd.data import CLEAN, Quality
from dmkd.data.boxes import cut_to_box
from dmkd.data.loading import load
from dmkd.data.pictures import Labels, Pictures
from dmkd.data.reading import Found, made, read_picture, readable_rows
from dmkd.data.views import check_degraded, degrade, max_side_view, to_unit


@dataclass(frozen=True, eq=False)
class SizedRows:
    """A part's pictures with their longer side reduced to `size` pixels, each of its own shape."""

    part: Pictures
    size: int
    quality: Quality = CLEAN

    def view(self, position: int) -> Tensor:
        """[3, h, w] float32 in [0, 1]. Raises `DataError` naming a broken picture."""
        picture = Image.fromarray(read_picture(self.part, position))
        whole = 0
        if self.quality.boxes and self.part.boxes is not None:
            whole = max(picture.size)
            picture = cut_to_box(picture, self.part.boxes[position].tolist(), self.part.file(position))
        pixels = max_side_view(picture, self.size, whole)
        pixels = degrade(pixels, self.quality.degraded_size) if self.quality.degraded_size else pixels
        return torch.from_numpy(to_unit([pixels])[0])

    def padded(self, index: Labels) -> tuple[Tensor, Tensor]:
        """[R, 3, H, W] pictures in their upper left corners, zeros beyond, and [R, 2] their heights and widths."""
        views = [self.view(position) for position in index.tolist()]
        sizes = torch.tensor([view.shape[1:] for view in views])
        sheet = torch.zeros(len(views), 3, *sizes.amax(0).tolist())
        for row, view in zip(sheet, views, strict=True):
            row[:, : view.shape[1], : view.shape[2]] = view
        return sheet, sizes


@dataclass(frozen=True, eq=False)
class _Chunks:
    """Pictures some at a time, by number of the chunk."""

    rows: SizedRows
    chunks: list[Labels]

    def __call__(self, number: int) -> tuple[list[Tensor] | None, Found]:
        rows, found = readable_rows(self.rows.part, self.chunks[number].tolist(), self.rows.view)
        return rows or None, found


def sized_batches(
    part: Pictures,
    size: int,
    *,
    batch_size: int,
    workers: int = 0,
    positions: Sequence[int] | Tensor | None = None,
    quality: Quality = CLEAN,
) -> Iterator[list[Tensor]]:
    """At most `batch_size` pictures [3, h, w] at a time, in order (of `positions`, where given), longer side at most `size`.

    Broken pictures are left out: `part.broken` names them. Raises `DataError` where that are more than half, `ConfigError` where
    the quality's degradation would take nothing away.
    """
    check_degraded(quality.degraded_size, size)
    order = np.arange(len(part)) if positions is None else np.asarray(positions, dtype=np.int64)
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    yield from made(part, load(_Chunks(SizedRows(part, size, quality), chunks), len(chunks), workers))

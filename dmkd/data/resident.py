"""A training part's pictures as bytes on the device that trains: one flat buffer, filled once, from which views are cut there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmkd import pulse
from dmkd.data.cache import LIMIT_MB, decoded_sides, memory_limit
from dmkd.data.decoded import Pixels
from dmkd.data.loading import load
from dmkd.data.pictures import Labels, Pictures
from dmkd.data.reading import Found, made, read_picture, readable_rows
from dmkd.errors import DataError

SHARE = 0.5
"""Share of a GPU's free memory, or of what is free of a process's own part of it, that pictures may take."""
CHUNK = 32
"""Pictures that are read, and put on the device, together."""


@dataclass(frozen=True, eq=False)
class ResidentPictures:
    """N pictures [h, w, 3] one after the other; a broken one has no pixels, and is in `part.broken`."""

    pixels: Tensor
    """[bytes] uint8; at its end a row of the widest picture is left over, for whoever reads rows of one length."""
    starts: Labels
    """[N] where each begins."""
    heights: Labels
    widths: Labels


def room(device: torch.device) -> tuple[int, str]:
    """Bytes that pictures may take on a device, and what allows them: on a CPU `$DMKD_PICTURE_CACHE_MB`."""
    if device.type != "cuda":
        return memory_limit(), f"${LIMIT_MB}"
    free, total = torch.cuda.mem_get_info(device)
    card = torch.cuda.current_device() if device.index is None else device.index  # a fraction is told of a number alone
    own = torch.cuda.get_per_process_memory_fraction(card) * total
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return share_of_free(free, own, held, used), f"{SHARE:.0%} of the GPU's free memory"


def share_of_free(free: int, own: float, held: int, used: int) -> int:
    """Bytes for pictures on a card with so many `free`, of which this process may have `own`, and holds some, in part unused."""
    return max(0, int(SHARE * (min(free, own - held) + held - used)))


def resident(part: Pictures, device: torch.device, *, short_side: int = 0, workers: int = 0) -> ResidentPictures | None:
    """All pictures of `part` on `device`, reduced to `short_side` (0: as they are); None, with a warning, where they do not fit.

    Read as a training batch reads them, by `workers` processes (0: here): from the machine's decoded pictures, which they are
    added to. Raises `DataError` where more than half of them are broken, or where a file changes meanwhile.
    """
    sides = np.array([_sides(part, position, short_side) for position in range(len(part))], dtype=np.int64)
    wanted, margin = 3 * int(sides.prod(axis=1).sum()), 3 * int(sides.max())
    allowed, by = room(device)
    if wanted + margin > allowed:
        warnings.warn(
            f"data.device_views: the {len(part)} training pictures take {-(-wanted // 2**20)} MB, and {by} allows "
            f"{allowed // 2**20}: views are made on the host, as without it; lower data.view_short_side, or allow more",
            stacklevel=2,
        )
        return None
    pixels = torch.empty(wanted + margin, dtype=torch.uint8, device=device)
    held = ResidentPictures(pixels, *(np.zeros(len(part), np.int64) for _ in range(3)))
    _fill(held, wanted, part, short_side, workers)
    return held


def _sides(part: Pictures, position: int, short_side: int) -> tuple[int, int]:
    pulse.beat()
    return decoded_sides(part.file(position), short_side)


def _fill(held: ResidentPictures, wanted: int, part: Pictures, short_side: int, workers: int) -> None:
    chunks, end = [range(start, min(start + CHUNK, len(part))) for start in range(0, len(part), CHUNK)], 0
    for positions, shapes, flat in made(part, load(_Chunks(part, chunks, short_side), len(chunks), workers)):
        start, end = end, end + len(flat)
        if end > wanted:
            raise DataError(f"{part.name} in {part.root}: pictures changed while they were read; start again")
        held.pixels[start:end].copy_(flat)
        held.heights[positions], held.widths[positions] = shapes.T
        lengths = 3 * shapes.prod(axis=1)
        held.starts[positions] = start + np.cumsum(lengths) - lengths


@dataclass(frozen=True, eq=False)
class _Chunks:
    """Some pictures of a part at a time, by number of the chunk: their positions, [n, 2] heights and widths, and all bytes."""

    part: Pictures
    chunks: Sequence[range]
    short_side: int

    def __call__(self, number: int) -> tuple[tuple[list[int], Labels, Tensor] | None, Found]:
        rows, found = readable_rows(self.part, self.chunks[number], self._read)
        if not rows:
            return None, found
        shapes = np.array([pixels.shape[:2] for _, pixels in rows], dtype=np.int64)
        flat = torch.from_numpy(np.concatenate([pixels.reshape(-1) for _, pixels in rows]))
        return ([position for position, _ in rows], shapes, flat), found

    def _read(self, position: int) -> tuple[int, Pixels]:
        return position, read_picture(self.part, position, self.short_side)

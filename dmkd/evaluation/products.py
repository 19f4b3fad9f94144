"""Similarities of queries to a whole gallery, a block of queries at a time, and what is asked of each block.

On the host every thread multiplies and ranks blocks of its own, with BLAS kept to that one thread: threads of BLAS that wait for
the next product spin, and would take the processor from the ranking.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmkd.evaluation.blocks import Block, DeviceBlock, HostBlock
from dmkd.evaluation.even import TILE, by_numpy, even_product, padded, tiles
from dmkd.evaluation.threads import full_float32, host_threads

BLOCK_MB = 64.0
"""Memory of a thread's block of similarities; no result depends on it. A smaller one costs time: products of few rows."""
ALL_BLOCKS_MB = 512.0
"""Memory of the blocks of all threads."""
DEVICE_BLOCK_MB = 256.0
"""The memory of a block on an accelerator, where a product of few rows leaves most of the device idle."""
LARGE = 1 << 20
"""Similarities from which on more than one thread is worth its start."""

Answer = TypeVar("Answer")
Ask = Callable[[int, Block], Answer]
"""What is asked of a block, given the position of its first query; the block's memory is used again afterwards."""


def ask_blocks(q: NDArray[Any], g: NDArray[Any], device: torch.device, ask: Ask[Answer]) -> Iterator[Answer]:
    """The answers, block by block in the order of the queries q [Q, D], to the gallery g [G, D].

    On the host `ask` is called by as many threads as torch uses. Equal vectors have equal similarities there
    wherever they stand, if one of the host's products is seen to be even (`dmkd.evaluation.even`).
    """
    return (_on_host if device.type == "cpu" else _on_device)(q, g, device, ask)


def _on_host(q: NDArray[Any], g: NDArray[Any], device: torch.device, ask: Ask[Answer]) -> Iterator[Answer]:
    whole = padded(g)
    multiply = even_product(g.dtype, g.shape[1]) or by_numpy
    threads = torch.get_num_threads() if len(q) * len(g) >= LARGE else 1
    rows = min(_rows(min(BLOCK_MB, ALL_BLOCKS_MB / threads), whole), tiles(-(-len(q) // threads)))
    own = threading.local()

    def answer(start: int) -> Answer:
        if not hasattr(own, "memory"):
            own.memory = np.empty((rows, len(whole)), whole.dtype)
        part = q[start : start + rows]
        similarities = own.memory[: tiles(len(part))]
        multiply(padded(part), whole, similarities)
        return ask(start, HostBlock(similarities[: len(part), : len(g)]))

    with host_threads(threads) as pool:
        yield from pool.map(answer, range(0, len(q), rows))


def _on_device(q: NDArray[Any], g: NDArray[Any], device: torch.device, ask: Ask[Answer]) -> Iterator[Answer]:
    whole = padded(g)
    rows = min(_rows(DEVICE_BLOCK_MB, whole), tiles(len(q)))
    multiply = _device_product(whole, device)
    for start in range(0, len(q), rows):
        part = q[start : start + rows]
        yield ask(start, DeviceBlock(multiply(padded(part))[: len(part), : len(g)]))


def _device_product(g: NDArray[Any], device: torch.device) -> Callable[[NDArray[Any]], Tensor]:
    there = torch.from_numpy(g).to(device)

    def multiply(part: NDArray[Any]) -> Tensor:
        with full_float32(), torch.autocast(device.type, enabled=False):
            return torch.from_numpy(part).to(device) @ there.T

    return multiply


def _rows(megabytes: float, g: NDArray[Any]) -> int:
    return TILE * max(1, int(megabytes * 2**20 / (len(g) * g.itemsize * TILE)))

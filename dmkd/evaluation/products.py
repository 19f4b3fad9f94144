"""Similarities of queries to a whole gallery, a block of queries at a time, and what is asked of each block.

On the host every thread multiplies and ranks blocks of its own, with BLAS kept to that one thread: threads of BLAS that wait for
the next product spin, and would take the processor from the ranking.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from dmkd.evaluation.blocks import Block, DeviceBlock, HostBlock

BLOCK_MB = 64.0
"""Memory of a thread's block of similarities; no result depends on it. A smaller one costs time: products of few rows."""
ALL_BLOCKS_MB = 512.0
"""Memory of the blocks of all threads."""
DEVICE_BLOCK_MB = 256.0
"""The memory of a block on an accelerator, where a product of few rows leaves most of the device idle."""
TILE = 16
"""Rows of both sides of a product come in multiples of this."""
LARGE = 1 << 20
"""Similarities from which on more than one thread is worth its start."""

Answer = TypeVar("Answer")
Ask = Callable[[int, Block], Answer]
"""What is asked of a block, given the position of its first query; the block's memory is used again afterwards."""


def ask_blocks(q: NDArray[Any], g: NDArray[Any], device: torch.device, ask: Ask[Answer]) -> Iterator[Answer]:
    """The answers, block by block in the order of the queries q [Q, D], to the gallery g [G, D].

    On the host `ask` is called by as many threads as torch uses. Both sides are padded to whole tiles: BLAS rounds a matrix's
    last odd rows and columns otherwise than the rest, which would make equal vectors unequal and the block size visible.
    """
    return (_on_host if device.type == "cpu" else _on_device)(q, g, device, ask)


def _on_host(q: NDArray[Any], g: NDArray[Any], device: torch.device, ask: Ask[Answer]) -> Iterator[Answer]:
    whole = padded(g)
    threads = torch.get_num_threads() if len(q) * len(g) >= LARGE else 1
    rows = min(_rows(min(BLOCK_MB, ALL_BLOCKS_MB / threads), whole), _tiles(-(-len(q) // threads)))
    own = threading.local()

    def answer(start: int) -> Answer:
        if not hasattr(own, "memory"):
            own.memory = np.empty((rows, len(whole)), whole.dtype)
        part = q[start : start + rows]
        tiles = padded(part)
        similarities = np.matmul(tiles, whole.T, out=own.memory[: len(tiles)])
        return ask(start, HostBlock(similarities[: len(part), : len(g)]))

    with host_threads(threads) as pool:
        yield from pool.map(answer, range(0, len(q), rows))


@contextmanager
def host_threads(count: int) -> Iterator[Executor]:
    """So many threads, each of which multiplies alone; what has not begun when this ends never does."""
    with _pools().limit(limits=1, user_api="blas"):
        pool = ThreadPoolExecutor(count)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


def _on_device(q: NDArray[Any], g: NDArray[Any], device: torch.device, ask: Ask[Answer]) -> Iterator[Answer]:
    whole = padded(g)
    rows = min(_rows(DEVICE_BLOCK_MB, whole), _tiles(len(q)))
    multiply = _device_product(whole, device)
    for start in range(0, len(q), rows):
        part = q[start : start + rows]
        yield ask(start, DeviceBlock(multiply(padded(part))[: len(part), : len(g)]))


def _device_product(g: NDArray[Any], device: torch.device) -> Callable[[NDArray[Any]], Tensor]:
    there = torch.from_numpy(g).to(device)

    def multiply(part: NDArray[Any]) -> Tensor:
        # Training may have allowed TF32 or autocast; ranks are those of full float32 products.
        allowed = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.autocast(device.type, enabled=False):
                return torch.from_numpy(part).to(device) @ there.T
        finally:
            torch.set_float32_matmul_precision(allowed)

    return multiply


def _rows(megabytes: float, g: NDArray[Any]) -> int:
    return TILE * max(1, int(megabytes * 2**20 / (len(g) * g.itemsize * TILE)))


def _tiles(rows: int) -> int:
    return -(-rows // TILE) * TILE


def padded(x: NDArray[Any]) -> NDArray[Any]:
    """`x` with rows of zeros behind it up to a whole tile."""
    missing = _tiles(len(x)) - len(x)
    return np.concatenate([x, np.zeros((missing, x.shape[1]), x.dtype)]) if missing else x

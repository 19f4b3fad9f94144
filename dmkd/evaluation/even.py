"""Matrix products in which equal vectors have equal similarities, wherever their rows and columns stand.

BLAS multiplies a matrix's edges otherwise than its middle, and small matrices otherwise than large ones, and adds up in another
order there; some kernels do so from one row to the next (OpenBLAS's float32 kernel for AVX2 alone). The last bit of a similarity
would then depend on where two pictures stand, on the block size and on the number of threads. So both sides come in whole tiles,
and a product is taken only after it was seen to be even.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dmkd.evaluation.threads import host_threads

TILE = 48
"""Rows of both sides of a product come in multiples of this. With 16, small products of OpenBLAS with AVX-512 were uneven,
and float64 ones of MKL on an AMD processor."""
SHAPES = ((1, 1), (1, 2), (2, 1), (1, 43), (5, 11), (11, 5), (11, 11))
"""Tiles of rows and of columns in which a product is tried: small ones, long ones, and such as BLAS cuts into blocks."""

Product = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], None]
"""Writes a @ b.T of rows a [m, D] and b [n, D] to out [m, n]."""


def by_numpy(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """NumPy's BLAS: the fastest where AVX-512 is."""
    np.matmul(a, b.T, out=out)


def by_torch(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """torch's BLAS (MKL on x86-64)."""
    torch.mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(out))


@cache
def even_product(dtype: np.dtype[Any], dim: int) -> Product | None:
    """The first product of this host that is even for vectors of so many dimensions; None where neither is."""
    with host_threads(1) as pool:  # as it will be used: more threads of BLAS would cut a product otherwise
        return next((product for product in (by_numpy, by_torch) if pool.submit(is_even, product, dtype, dim).result()), None)


def is_even(product: Product, dtype: np.dtype[Any], dim: int) -> bool:
    """Whether a cell is the same in all `SHAPES` at all places, and from both sides; of 643,000 cells."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((TILE, dim)).astype(dtype)
    cells = np.empty((TILE, TILE), dtype)
    for number, shape in enumerate(SHAPES):
        row, column = (rng.permutation(count * TILE) % TILE for count in shape)
        got = np.empty((len(row), len(column)), dtype)
        product(vectors[row], vectors[column], got)
        if number == 0:
            cells[row[:, None], column] = got
        if not np.array_equal(cells[row[:, None], column], got):
            return False
    return np.array_equal(cells, cells.T)


def tiles(rows: int) -> int:
    """The rows of so many whole tiles that they hold `rows`."""
    return -(-rows // TILE) * TILE


def padded(x: NDArray[Any]) -> NDArray[Any]:
    """`x` with rows of zeros behind it up to a whole tile, in memory that torch takes."""
    missing = tiles(len(x)) - len(x)
    return np.concatenate([x, np.zeros((missing, x.shape[1]), x.dtype)]) if missing else np.require(x, requirements=["C", "W"])

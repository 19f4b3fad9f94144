"""What the metrics accept: NumPy arrays or torch tensors, checked once at the door."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmkd.errors import DataError, ShapeError

Array: TypeAlias = Tensor | NDArray[Any]
Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


def to_numpy(x: Array) -> NDArray[Any]:
    """The array behind a tensor (no copy on the CPU; bfloat16, which NumPy lacks, as float32), or `x` as an array."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return np.asarray(x)


def like(values: NDArray[Any], given: Array) -> Array:
    """`values` as the kind of array that was given, on its device."""
    return torch.from_numpy(values).to(given.device) if isinstance(given, Tensor) else values


def vectors(x: Array, name: str) -> NDArray[Any]:
    """[N, D] rows as float64 where float64 was given, as float32 otherwise.

    Raises `ShapeError` unless two-dimensional and not empty, `DataError` for NaN or infinite values, which would sort anywhere.
    """
    array = to_numpy(x)
    if array.ndim != 2 or not array.size:
        raise ShapeError(f"{name}: found shape {list(array.shape)}, wanted [N, D] with at least one row and one column")
    array = array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
    broken = int((~np.isfinite(array).all(axis=1)).sum())
    if broken:
        raise DataError(
            f"{name}: {broken} of {len(array)} rows hold NaN or infinity; the network that embedded them has diverged"
        )
    return array


def keys(x: Array, length: int, name: str) -> NDArray[Any]:
    """[length] labels, ids or groups; raises `ShapeError` for another shape."""
    array = to_numpy(x)
    if array.shape != (length,):
        raise ShapeError(f"{name}: found shape {list(array.shape)}, wanted [{length}], one for each row")
    return array

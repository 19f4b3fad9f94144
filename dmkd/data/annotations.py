"""What the pickled annotations of the landmark data sets must look like, and one clear line where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.data.pictures import Labels
from dmkd.errors import DataError


def entry(content: Any, key: str, where: str | Path) -> Any:
    """`content[key]`. Raises `DataError` where the file holds something else, saying what."""
    if not isinstance(content, Mapping) or key not in content:
        found = (
            f"a dict with {', '.join(map(str, list(content)[:6]))}" if isinstance(content, Mapping) else type(content).__name__
        )
        raise DataError(f"{where}: found {found}, wanted a dict with the key {key!r}")
    return content[key]


def texts(value: Any, what: str) -> list[str]:
    """A list (or array) of texts. Raises `DataError`."""
    items = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    items = [item.decode("latin-1") if isinstance(item, bytes) else item for item in items]
    if not isinstance(value, (list, tuple, np.ndarray)) or not all(isinstance(item, str) for item in items):
        raise DataError(f"{what}: found {type(value).__name__}, wanted a list of names")
    return [str(item) for item in items]


def positions(value: Any, count: int, what: str) -> Labels:
    """[n] whole numbers 0 .. count - 1. Raises `DataError`."""
    try:
        array = np.asarray(value).reshape(-1)
    except ValueError:
        array = np.array([None])
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise DataError(f"{what}: found values of type {array.dtype}, wanted a list of whole numbers")
    if array.min() < 0 or array.max() >= count:
        raise DataError(f"{what}: found {int(array.min())} .. {int(array.max())}, wanted positions in a list of {count} pictures")
    return array.astype(np.int64)

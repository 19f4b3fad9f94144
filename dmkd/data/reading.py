"""Reading a data set's pictures where some may be broken: these are left out of what is made, and reported to the part."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from dmkd.data.broken import BrokenPicture
from dmkd.data.cache import shared_cache
from dmkd.data.decoded import Pixels
from dmkd.data.pictures import Pictures
from dmkd.errors import DataError

T = TypeVar("T")
Found = dict[str, str]
"""Path and reason of pictures met as broken."""


def read_picture(part: Pictures, position: int, short_side: int = 0) -> Pixels:
    """[h, w, 3] the decoded picture, not to be altered; reduced to `short_side`, unless 0. Raises `BrokenPicture`."""
    cache = shared_cache()
    try:
        return cache.open(part.file(position), os.fspath(part.root), short_side)
    except DataError as error:
        raise BrokenPicture(part.paths[position], str(error)) from None


def readable_rows(part: Pictures, positions: Sequence[int], view: Callable[[int], T]) -> tuple[list[T], Found]:
    """`view` of each position whose picture can be read, in order, and the others; those known as broken are not tried again."""
    rows: list[T] = []
    found: Found = {}
    for position in positions:
        path = part.paths[position]
        if path in part.broken.reasons or path in found:
            continue
        try:
            rows.append(view(position))
        except BrokenPicture as error:
            found[path] = error.reason
    return rows, found


def made(part: Pictures, batches: Iterable[tuple[Any, Found]]) -> Iterator[Any]:
    """Batches as they come out of loading processes, without empty ones; what they met as broken is told to `part`.

    Raises `DataError` where more than half of the part is broken, or where that leaves no batch at all.
    """
    empty = True
    told: list[str] = []  # kept back until there is something to go on with: a refusal is one line
    for batch, found in batches:
        told += part.met(found)
        if batch is not None:
            empty = False
            _warn(told)
            yield batch
    if not empty:
        _warn(told)
    elif part.broken:
        raise DataError(
            f"{part.name} in {part.root}: none of the pictures wanted could be read, among them "
            f"{next(iter(part.broken.reasons.values()))}; `dmkd prepare {part.name}` lists them"
        )


def _warn(told: list[str]) -> None:
    for line in told:
        warnings.warn(line, stacklevel=4)
    told.clear()

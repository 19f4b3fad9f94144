"""Class-disjoint training, validation and test parts, and k folds; drawn by a hash, so that no library's generator moves them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from dmkd.data import Data
from dmkd.data.pictures import Labels, Pictures
from dmkd.errors import DataError

FEWEST = 2
"""Classes that a part needs: with one, every neighbour is right."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A data set cut by classes; no class is in two parts."""

    train: Pictures
    val: Pictures | None
    """None where validation is off (the final stage)."""
    test: Pictures | None
    """None where a manifest has no test rows."""
    fingerprint: str
    """16 hexadecimal digits over the fingerprints of the three parts."""


def split(pictures: Pictures, data: Data) -> Parts:
    """Cut `pictures` by whole classes.

    Test classes are those that the data set says, or the second half. Of the others, `validation` is held out (drawn by
    `split_seed`; the data set's own "val" classes where it has some), or fold `fold` of `folds`. `validation = 0` trains on
    all of them, folds or not. `max_classes` keeps the first so many training classes (before validation is taken out) and as
    many test classes. Raises `DataError` where a part would have fewer than two classes.
    """
    train, own_val, test = _halves(pictures)
    if data.max_classes:
        train, test = train[: data.max_classes], test[: data.max_classes]
        own_val = [label for label in own_val if label in train]
    val = _held_out(pictures, train, own_val, data)
    kept = [label for label in train if label not in set(val)]
    _check(pictures, data, kept, val, test)
    parts = [_part(pictures, labels) for labels in (kept, val, test)]
    if parts[0] is None:
        raise DataError(f"{pictures.name}: no training classes")
    prints = "/".join(part.fingerprint if part else "none" for part in parts)
    return Parts(parts[0], parts[1], parts[2], hashlib.sha256(prints.encode()).hexdigest()[:16])


def class_order(names: list[str], seed: int) -> list[int]:
    """Positions of `names` in an order that depends on `seed` and the names alone."""
    return sorted(range(len(names)), key=lambda position: hashlib.sha256(f"{seed}:{names[position]}".encode()).hexdigest())


def _halves(pictures: Pictures) -> tuple[list[int], list[int], list[int]]:
    """Class numbers for training (the data set's own validation classes included), those, and for test."""
    count = len(pictures.classes)
    if pictures.split is None:
        return list(range(count // 2)), [], list(range(count // 2, count))
    home = {int(label): part for label, part in zip(pictures.labels, pictures.split, strict=True)}
    test = [label for label in range(count) if home[label] == "test"]
    return [label for label in range(count) if label not in set(test)], [label for label in home if home[label] == "val"], test


def _held_out(pictures: Pictures, train: list[int], own_val: list[int], data: Data) -> list[int]:
    if data.validation == 0:
        return []
    order = [train[position] for position in class_order([pictures.classes[label] for label in train], data.split_seed)]
    if data.folds:
        _check_folds(data)
        return order[data.fold :: data.folds]
    return own_val or order[: round(data.validation * len(order))]


def _check_folds(data: Data) -> None:
    if data.folds < 2:
        raise DataError(f"data.folds: found {data.folds}, wanted 0 (one split by data.validation) or at least 2")
    if data.fold >= data.folds:
        raise DataError(f"data.fold: found {data.fold}, wanted 0 .. {data.folds - 1} (data.folds is {data.folds})")


def _check(pictures: Pictures, data: Data, train: list[int], val: list[int], test: list[int]) -> None:
    how = f"data.folds={data.folds}" if data.folds and data.validation else f"data.validation={data.validation:g}"
    found = f"{len(train)} training, {len(val)} validation and {len(test)} test classes"
    if len(train) < FEWEST or (data.validation > 0 and len(val) < FEWEST):
        raise DataError(
            f"{pictures.name}: {len(pictures.classes)} classes with {how} give {found}; at least {FEWEST} of each are needed: "
            "add classes, change data.validation or data.folds, or set data.validation=0 to train without"
        )
    if len(test) == 1:
        raise DataError(f"{pictures.name}: one test class ({pictures.classes[test[0]]!r}); at least {FEWEST} are needed, or none")


def _part(pictures: Pictures, labels: list[int]) -> Pictures | None:
    if not labels:
        return None
    positions: Labels = np.flatnonzero(np.isin(pictures.labels, labels))
    return pictures.part(positions)

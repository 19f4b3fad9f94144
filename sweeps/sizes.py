"""How large the parts of a data set are: as they lie there, or as the field knows them where they do not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dmkd.data import Data
from dmkd.data.datasets import DATASETS, load_dataset
from dmkd.data.splits import Parts, split
from dmkd.errors import DataError

KNOWN: dict[str, tuple[int, int, int, int]] = {
    "cub200": (100, 5864, 100, 5924),
    "cars196": (98, 8054, 98, 8131),
    "sop": (11318, 59551, 11316, 60502),
    "inshop": (3997, 25882, 3985, 26830),
    "sfm120k": (551, 91642, 0, 0),
}
"""Classes and pictures for training (validation included), and for test. SfM-120k validates on 6,403 pictures of its own."""

SFM_VALIDATION = 6403


@dataclass(frozen=True)
class Size:
    """Classes and pictures of the parts."""

    classes: int
    train: int
    val: int
    test: int
    bytes: int = 0
    """Of the pictures' files; 0: not known."""


def size_of(parts: Parts) -> Size:
    """Of parts that are there."""
    held = [0 if part is None else len(part) for part in (parts.val, parts.test)]
    files = sum(int(part.sizes.sum()) for part in (parts.train, parts.val, parts.test) if part is not None)
    return Size(len(parts.train.classes), len(parts.train), held[0], held[1], files)


def known_size(data: Data, dataset: str) -> Size:
    """Of a data set that is not there, cut as `data` says. Raises `DataError` where nobody knows its size."""
    if dataset not in KNOWN:
        raise DataError(f"{dataset}: neither there nor of a size that is known; give its folder (--data-root)")
    classes, train, test_classes, test = KNOWN[dataset]
    if data.max_classes and data.max_classes < classes:
        train, classes = train * data.max_classes // classes, data.max_classes
        test = test * min(data.max_classes, test_classes) // max(1, test_classes)
    if dataset == "sfm120k":
        return Size(classes, train, SFM_VALIDATION if data.validation else 0, 0)
    share = (1 / data.folds if data.folds else data.validation) if data.validation else 0.0
    held = round(share * classes)
    return Size(classes - held, train - train * held // classes, train * held // classes, test)


def find_size(data: Data, dataset: str) -> tuple[Size, str]:
    """The size of `data` (`dataset`: what it stands for where a general reader reads it), and what is missing, in one line.

    Raises `DataError` for data that are there and not usable, or not there and unknown.
    """
    try:
        return size_of(split(load_dataset(data), data)), ""
    except DataError as error:
        if _is_there(data):
            raise
        place = "--root DIR" if not data.root else f"--root {data.root}"
        name = dataset if dataset in DATASETS else data.name
        return known_size(data, dataset), f"data set {dataset} ({error}); then: dmkd prepare {name} {place}"


def _is_there(data: Data) -> bool:
    """Whether the folder exists: what is wrong with it is then an error, and nothing to be guessed."""
    from dmkd.data.datasets import dataset_root

    try:
        return dataset_root(data).exists()
    except DataError:
        return False


def without_validation(data: Data) -> Data:
    """The final stage's data: all training classes."""
    return dataclasses.replace(data, validation=0.0, folds=0, fold=0)

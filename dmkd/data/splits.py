"""Class-disjoint training, validation and test parts, and k folds; drawn by a hash, so that no library's generator moves them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from dmkd.data import Data
from dmkd.data.labels import supervise
from dmkd.data.pictures import Labels, Listing, Pictures
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
    """16 hexadecimal digits over the fingerprints of the three parts, whatever of the training part is used or labelled."""
    labels: Labels
    """[N] what training is told of its N pictures: class numbers, some of them wrong (data.label_noise), -1 where withheld."""

    @property
    def skipped(self) -> dict[str, float]:
        """`data/skipped` (`Pictures.skipped`)."""
        return self.train.skipped

    @property
    def label_counts(self) -> dict[str, float]:
        """`data/labels_flipped` and `data/labels_withheld`, how many of the training labels; without those that are 0."""
        flipped, withheld = (self.labels >= 0) & (self.labels != self.train.labels), self.labels < 0
        counts = {"data/labels_flipped": float(flipped.sum()), "data/labels_withheld": float(withheld.sum())}
        return {name: count for name, count in counts.items() if count}

    def quality(self, data: Data, gallery: str = "student") -> str:
        """What a test sees beyond whole, clean pictures, for the protocol's fingerprint: empty where there is nothing to say.

        The student's quality, and that of the gallery ("student", or "teacher" where a pretrained one embeds it); with boxes a
        hash of them too. What the teacher sees in training does not count.
        """
        sides = data.quality("student"), data.quality(gallery)
        if not any(side.degraded_size or side.boxes for side in sides):
            return ""
        seen = [f"{side.degraded_size}:{side.boxes:d}" for side in sides]
        boxes = [part.boxes for part in (self.val, self.test) if part and part.boxes is not None and any(s.boxes for s in sides)]
        return "/".join([*seen, *(hashlib.sha256(box.tobytes()).hexdigest()[:16] for box in boxes)])


def split(pictures: Pictures, data: Data) -> Parts:
    """Cut `pictures` by whole classes.

    Test classes are those that the data set says, or the second half. Of the others, `validation` is held out (drawn by
    `split_seed`, or the last ones under `validation_order="sorted"`; the data set's own "val" classes where it has some), or fold
    `fold` of `folds`. `validation = 0` trains on
    all of them, folds or not. `max_classes` keeps the first so many training classes (before validation is taken out) and as
    many test classes. Of the training part `data.use` may leave a share, and its labels are those of `labels.supervise`. Raises
    `DataError` where a part would have fewer than two classes, where a class stands in two parts of the data set's own split, and
    where `data.use_boxes` finds no boxes.
    """
    if data.use_boxes != "none" and pictures.boxes is None:
        raise DataError(
            f"data.use_boxes={data.use_boxes}, but data set {pictures.name!r} names no boxes: give a manifest with the columns "
            "x, y, width, height, or set data.use_boxes=none"
        )
    train, own_val, test = _halves(pictures)
    if data.max_classes:
        train, test = train[: data.max_classes], test[: data.max_classes]
        own_val = [label for label in own_val if label in train]
    val = _held_out(pictures, train, own_val, data)
    held = set(val)
    kept = [label for label in train if label not in held]
    _check(pictures, data, kept, val, test)
    parts = [_part(pictures, labels) for labels in (kept, val, test)]
    if parts[0] is None:
        raise DataError(f"{pictures.name}: no training classes")
    prints = "/".join(part.fingerprint if part else "none" for part in parts)
    seen, labels = supervise(parts[0], data)
    return Parts(seen, parts[1], parts[2], hashlib.sha256(prints.encode()).hexdigest()[:16], labels)


def class_order(names: list[str], seed: int) -> list[int]:
    """Positions of `names` in an order that depends on `seed` and the names alone."""
    return sorted(range(len(names)), key=lambda position: hashlib.sha256(f"{seed}:{names[position]}".encode()).hexdigest())


def class_parts(listing: Listing) -> list[str]:
    """[C] "train", "val" or "test" for each class: the data set's own split, else the first half trains, the second half tests.

    Raises `DataError` naming a class that stands in two parts. A class without a picture trains.
    """
    count = len(listing.classes)
    if listing.split is None:
        return ["train" if label < count // 2 else "test" for label in range(count)]
    home: dict[int, str] = {}
    for label, part in zip(listing.labels.tolist(), listing.split, strict=True):
        if home.setdefault(label, part) != part:
            raise DataError(
                f"{listing.name}: class {listing.classes[label]!r} stands in {home[label]} and in {part}; parts must not share a "
                "class: mend the lists"
            )
    return [home.get(label, "train") for label in range(count)]


def _halves(pictures: Pictures) -> tuple[list[int], list[int], list[int]]:
    """Class numbers for training (the data set's own validation classes included), those, and for test."""
    parts = list(enumerate(class_parts(pictures)))
    train, test = ([label for label, part in parts if (part == "test") == tests] for tests in (False, True))
    return train, [label for label, part in parts if part == "val"], test


def _held_out(pictures: Pictures, train: list[int], own_val: list[int], data: Data) -> list[int]:
    if data.validation == 0:
        return []
    order = train[::-1]
    if data.validation_order == "hash":
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

"""Which pictures a batch holds: positions in the training part, drawn for a whole epoch at once by one keyed generator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from dmkd.data.pictures import Labels, Pictures
from dmkd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dmkd.data.batches import Batches


def epoch_length(batches: Batches, images: int, classes: int, tuples: int | None = None) -> int:
    """Batches in an epoch: `batches.iterations`, or what one pass gives.

    With replacement floor(images / size) (Revisiting DML), or ceil where `drop_last` is off; classes without replacement one pass
    over the classes (Yu); tuples one pass over them. Raises `DataError` where that is not even one batch.
    """
    if batches.iterations:
        return batches.iterations
    things, size, what = images, batches.size, "pictures"
    if batches.kind == "classes" and not batches.replacement:
        things, size, what = classes, classes_per_batch(batches), "classes"
    elif batches.kind == "tuples":
        things, what = (images if tuples is None else tuples), "tuples"
    length = things // size if batches.drop_last else math.ceil(things / size)
    if length == 0:
        raise DataError(
            f"an epoch has no whole batch: {things} training {what}, {size} wanted in a batch (method.batches.size="
            f"{batches.size}); lower it, set method.batches.iterations, or set method.batches.drop_last=false"
        )
    return length


def classes_per_batch(batches: Batches) -> int:
    """P of "P classes x K images". Raises `ConfigError` where the size is no multiple of K."""
    if batches.size % batches.images_per_class:
        raise ConfigError(
            f"method.batches.size: found {batches.size}, wanted a multiple of method.batches.images_per_class "
            f"({batches.images_per_class})"
        )
    return batches.size // batches.images_per_class


def plan_epoch(part: Pictures, batches: Batches, labels: Labels, rng: np.random.Generator) -> list[Labels]:
    """[size] training positions of every batch of an epoch, for the kinds "classes" and "plain".

    `labels` [N] are those to group by; classes that noise has left without a picture are passed over. Pictures whose label is -1
    (withheld) are part of every plain batch's permutation. A batch of classes holds fewer classes and then, in place of the
    others' groups, pictures without a label, drawn uniformly, since nobody may know their class (Yu et al. 2019, Sec. 5.2, learn
    from both parts and do not say how a batch is made). The number of batches stays that of a fully labelled part.
    """
    length = epoch_length(batches, len(part), len(part.classes))
    if batches.kind == "plain":
        return cut_permutations(len(part), batches.size, length, batches.drop_last, rng)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
    hidden = np.flatnonzero(labels < 0)
    if not members:
        return _unlabelled(hidden, batches.size, length, rng)
    withheld = _withheld(batches, len(hidden) / len(labels)) if hidden.size else 0
    drawn = _labelled(part, members, replace(batches, size=batches.size - withheld), length, rng)
    if not withheld:
        return drawn
    return [np.concatenate(both) for both in zip(drawn, _unlabelled(hidden, withheld, length, rng), strict=True)]


def _withheld(batches: Batches, share: float) -> int:
    """How many pictures of a batch are without a label, whose share of all is `share`: whole groups of K."""
    groups = classes_per_batch(batches)
    if batches.unlabelled == 0:
        return 0
    if groups < 3:
        raise ConfigError(
            f"method.batches: {groups} classes x {batches.images_per_class} pictures leave no room for pictures without a label "
            "beside two labelled classes; raise size, lower images_per_class, or set method.batches.unlabelled=0"
        )
    wanted = round((share if batches.unlabelled is None else batches.unlabelled) * groups)
    return min(max(1, wanted), groups - 2) * batches.images_per_class


def _unlabelled(hidden: Labels, count: int, length: int, rng: np.random.Generator) -> list[Labels]:
    """`count` positions for each batch, from permutations of all of them; with replacement where they are fewer."""
    if len(hidden) < count:
        return list(hidden[rng.integers(len(hidden), size=(length, count))])
    return [hidden[cut] for cut in cut_permutations(len(hidden), count, length, True, rng)]


def _labelled(part: Pictures, members: list[Labels], batches: Batches, length: int, rng: np.random.Generator) -> list[Labels]:
    if batches.replacement:
        return _with_replacement(members, batches, length, rng)
    _check_lonely(part, members)
    # A class that noise has left with one picture has no positive, as one that it has left with none.
    return _without_replacement([member for member in members if len(member) > 1], batches, length, rng)


def cut_permutations(things: int, size: int, length: int, drop_last: bool, rng: np.random.Generator) -> list[Labels]:
    """`length` batches from permutations of `things` numbers, cut in sequence; a new permutation where one is used up.

    A permutation's rest that fills no batch is dropped, or with `drop_last=False` is a smaller batch.
    """
    if drop_last and things < size:
        raise DataError(
            f"{things} training things (pictures, classes or tuples) do not fill a batch of {size}; lower method.batches.size"
        )
    return list(islice(_cuts(things, size, drop_last, rng), length))


def _cuts(things: int, size: int, drop_last: bool, rng: np.random.Generator) -> Iterator[Labels]:
    while True:
        order = rng.permutation(things)
        for start in range(0, things - size + 1 if drop_last else things, size):
            yield order[start : start + size]


def _with_replacement(members: list[Labels], batches: Batches, length: int, rng: np.random.Generator) -> list[Labels]:
    """Revisiting DML: classes with replacement, pictures with replacement; a picture, or a class, may appear twice."""
    counts = np.array([len(member) for member in members])
    starts = np.cumsum(counts) - counts
    drawn = np.repeat(rng.integers(len(members), size=(length, classes_per_batch(batches))), batches.images_per_class, axis=1)
    within = (rng.random(drawn.shape) * counts[drawn]).astype(np.int64)
    return list(np.concatenate(members)[starts[drawn] + within])


def _without_replacement(members: list[Labels], batches: Batches, length: int, rng: np.random.Generator) -> list[Labels]:
    """Yu: a permutation of the classes cut in sequence; pictures without replacement where a class has K, else with."""
    groups = cut_permutations(len(members), classes_per_batch(batches), length, batches.drop_last, rng)
    return [np.concatenate([_pick(members[label], batches.images_per_class, rng) for label in group]) for group in groups]


def _pick(member: Labels, count: int, rng: np.random.Generator) -> Labels:
    return rng.choice(member, count, replace=len(member) < count)


def _check_lonely(part: Pictures, members: list[Labels]) -> None:
    if part.broken.at_load:  # a class may be lonely because its other pictures are broken: it is passed over
        return
    counts = np.bincount(part.labels)
    for member in members:
        if len(member) == 1 and counts[part.labels[member[0]]] == 1:
            raise DataError(
                f"{part.name}: class {part.classes[part.labels[member[0]]]!r} has one picture ({part.paths[member[0]]}), "
                "so without replacement it has no positive; add a picture, remove the class, or set "
                "method.batches.replacement=true"
            )

"""What training is told of its labels: some wrong (noise), some withheld (semi-supervised); validation and test keep theirs."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from dmkd.data import Data
from dmkd.data.pictures import Labels, Pictures
from dmkd.errors import DataError

FEWEST = 2
"""Labelled pictures that a class keeps where it has them: one alone has no positive."""


def supervise(part: Pictures, data: Data) -> tuple[Pictures, Labels]:
    """The pictures of the training part that training sees, and the labels [N] that it is told: -1 where withheld.

    `data.label_noise` first, over the whole part, then `data.labelled`; `data.use` then chooses pictures, so that neither who is
    labelled nor who is mislabelled depends on it. Raises `DataError` where no picture is left.
    """
    kept = labelled(part, data)
    told = np.where(kept, noisy(part.labels, len(part.classes), data), -1)
    if data.use == "all" or (data.use == "labelled" and kept.all()):
        return part, told
    chosen = np.flatnonzero(kept if data.use == "labelled" else ~kept)
    if not chosen.size:
        raise DataError(
            f"data.use=unlabelled, but data.labelled={data.labelled:g} withholds the label of none of {len(part)} training "
            f"pictures (a class keeps {FEWEST}); lower data.labelled, or set data.use=all"
        )
    return part.part(chosen), told[chosen]


def labelled(part: Pictures, data: Data) -> NDArray[np.bool_]:
    """[N] whether a picture keeps its label: of a class of n, `data.labelled` * n rounded half up, at least two (one of one).

    The pictures of a class are ordered by a hash of split seed, class and path, and the first keep theirs: other classes, another
    order of files or a larger share take no picture's label away.
    """
    keep = np.ones(len(part), dtype=np.bool_)
    if data.labelled == 1:
        return keep
    for label, name in enumerate(part.classes):
        members = np.flatnonzero(part.labels == label)
        order = sorted(members.tolist(), key=lambda position: _digest(f"{data.split_seed}:{name}:{part.paths[position]}"))
        keep[order[max(FEWEST, int(data.labelled * len(members) + 0.5)) :]] = False
    return keep


def noisy(labels: Labels, classes: int, data: Data) -> Labels:
    """[N] labels, each kept with probability 1 - `data.label_noise`, else uniform among the other classes (Zeng et al., Table 9).

    One draw for every picture, in order, by a generator keyed with `data.noise_seed` alone: what is exchanged at a lower rate is
    exchanged, for the same class, at a higher one.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(data.noise_seed)))
    exchanged = rng.random(len(labels)) < data.label_noise
    other = rng.integers(max(1, classes - 1), size=len(labels))
    return np.where(exchanged, other + (other >= labels), labels)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

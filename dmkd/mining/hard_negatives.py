"""Hard negatives out of a pool, mined once per epoch (Budnik and Avrithis 2021; the rule is that of Radenovic et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.errors import DataError
from dmkd.mining.pairs import check_batch, full_precision

_ENTRIES_AT_ONCE = 1 << 22
"""Similarities held at a time: 16 MiB of float32, and twice that for each array of positions."""


@torch.no_grad()
def hard_negatives(
    anchors: Tensor, pool: Tensor, anchor_labels: Tensor, pool_labels: Tensor, *, count: int = 5, random: bool = False
) -> Tensor:
    """Positions [Q, count] in the pool: each anchor's top-ranked images, at most one of a class and none of its own class.

    Ranked by dot product, best first; of equal ones the first in the pool. Pool images with label -1 are never taken.

    Args:
        anchors: [Q, D] embeddings by the current student.
        pool: [P, D] embeddings by the student (symmetric) or stored ones of the teacher (asymmetric), on the same device.
        anchor_labels: [Q].
        pool_labels: [P].
        count: negatives per anchor.
        random: rank at random (torch's global generator) under the same rule of classes.

    Raises:
        DataError: an anchor has fewer than `count` other classes in the pool.
    """
    check_batch(anchors, anchor_labels, pool, pool_labels)
    known, pool = pool_labels >= 0, full_precision(pool.detach())
    classes, numbers = torch.unique(torch.cat((anchor_labels, pool_labels)), return_inverse=True)
    own, of_pool = numbers[: len(anchors)], numbers[len(anchors) :]
    _check_classes(own, of_pool[known], count)
    rows = max(1, _ENTRIES_AT_ONCE // max(1, len(pool)))
    mined = [anchors.new_zeros((0, count), dtype=torch.int64)]
    for some, mine in zip(torch.split(full_precision(anchors.detach()), rows), torch.split(own, rows), strict=True):
        scores = torch.rand(len(some), len(pool), device=pool.device) if random else some @ pool.T
        best, position = _best_of_each_class(scores.masked_fill(~known, -torch.inf), of_pool, len(classes))
        best.scatter_(1, mine[:, None], -torch.inf)
        mined.append(position.gather(1, best.topk(count, dim=1).indices))
    return torch.cat(mined)


def _best_of_each_class(scores: Tensor, classes: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Of scores [q, P], the largest in each class [q, number] and its first position: keeping one image a class needs no more."""
    index = classes.expand_as(scores)
    best = scores.new_full((len(scores), number), -torch.inf).scatter_reduce_(1, index, scores, "amax")
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    first = torch.where(scores == best.gather(1, index), places, scores.shape[1])
    position = places.new_full((len(scores), number), scores.shape[1]).scatter_reduce_(1, index, first, "amin")
    return best, position


def _check_classes(own: Tensor, of_pool: Tensor, count: int) -> None:
    present = torch.unique(of_pool)
    others = len(present) - int(torch.isin(own, present).any()) if len(own) else count
    if others < count:
        raise DataError(
            f"{count} negatives of different classes are wanted, but the pool has {others} classes beside an anchor's own: "
            "enlarge the pool or ask for fewer"
        )

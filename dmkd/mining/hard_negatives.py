"""Hard negatives out of a pool, mined once per epoch (Budnik and Avrithis 2021; the rule is that of Radenovic et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.errors import DataError
from dmkd.mining.pairs import check_batch, full_precision

_ENTRIES_AT_ONCE = 1 << 22
"""Similarities held at a time: 16 MiB of float32."""


@torch.no_grad()
def hard_negatives(
    anchors: Tensor, pool: Tensor, anchor_labels: Tensor, pool_labels: Tensor, *, count: int = 5, random: bool = False
) -> Tensor:
    """Positions [Q, count] in the pool: each anchor's top-ranked images, at most one of a class and none of its own class.

    Ranked by dot product, best first. Pool images with label -1 are never taken.

    Args:
        anchors: [Q, D] embeddings by the current student.
        pool: [P, D] embeddings by the student (symmetric) or stored ones of the teacher (asymmetric), on the same device.
        anchor_labels: [Q].
        pool_labels: [P].
        count: negatives per anchor, at least 1.
        random: rank at random (torch's global generator) under the same rule of classes.

    Raises:
        DataError: an anchor has fewer than `count` other classes in the pool.
    """
    check_batch(anchors, anchor_labels, pool, pool_labels)
    _check_classes(anchor_labels, pool_labels, count)
    anchors, pool = full_precision(anchors.detach()), full_precision(pool.detach())
    rows = max(1, _ENTRIES_AT_ONCE // max(1, len(pool)))
    mined = [pool_labels.new_zeros((0, count), dtype=torch.int64)]
    for some, own in zip(torch.split(anchors, rows), torch.split(anchor_labels, rows), strict=True):
        scores = torch.rand(len(some), len(pool), device=pool.device) if random else some @ pool.T
        mined.append(_walk(scores.masked_fill_(pool_labels < 0, -torch.inf), pool_labels, own, count))
    return torch.cat(mined)


def _walk(scores: Tensor, classes: Tensor, own: Tensor, count: int) -> Tensor:
    """Best columns [q, count] of `scores` [q, P], overwritten: a class is struck out once taken, `own` at the start."""
    taken: list[Tensor] = []
    for _ in range(count):
        scores.masked_fill_(classes == own[:, None], -torch.inf)
        taken.append(scores.argmax(dim=1))
        own = classes[taken[-1]]
    return torch.stack(taken, dim=1)


def _check_classes(own: Tensor, of_pool: Tensor, count: int) -> None:
    present = torch.unique(of_pool[of_pool >= 0])
    others = len(present) - int(torch.isin(own, present).any()) if len(own) else count
    if others < count:
        raise DataError(
            f"{count} negatives of different classes are wanted, but the pool has {others} classes beside an anchor's own: "
            "enlarge the pool or ask for fewer"
        )

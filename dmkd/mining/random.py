"""Random sampling: as many of all valid triplets as there are rows, without replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.mining.pairs import Triplets, check_batch, class_masks


def all_triplets(labels: Tensor, *, ref_labels: Tensor | None = None) -> Tensor:
    """Every valid (anchor, positive, negative), int64 [M, 3] in lexicographic order; rows with label -1 take no part.

    labels [B]; ref_labels [R] where positives and negatives come from, or the batch itself. Memory B x R x R bytes. On a GPU
    the host waits for M, once a step: filled up to B x R x R they would be a hundred times as many.
    """
    positive, negative = class_masks(labels, ref_labels)
    return (positive[:, :, None] & negative[:, None, :]).nonzero()


@torch.no_grad()
def random(x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Triplets:
    """B triplets drawn uniformly without replacement from `all_triplets` (all of them where they are fewer); as in `Sampler`."""
    check_batch(x, labels, ref_x, ref_labels)
    triplets = all_triplets(labels, ref_labels=ref_labels)
    return Triplets(triplets[torch.randperm(len(triplets), device=triplets.device)[: len(x)]])


@torch.no_grad()
def every(x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Triplets:
    """All valid triplets; shapes as in `Sampler`."""
    check_batch(x, labels, ref_x, ref_labels)
    return Triplets(all_triplets(labels, ref_labels=ref_labels))

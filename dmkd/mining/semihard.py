"""Semi-hard sampling: negatives farther than the positive, but not by more than the margin (Schroff et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.mining.pairs import Triplets, check_batch, class_masks, distances, draw, triplets_of


@torch.no_grad()
def semihard_candidates(x: Tensor, labels: Tensor, *, margin: float = 0.2) -> Tensor:
    """Bool [B, B, B] (anchor, positive, negative): the negatives that may be drawn once the positive is.

    d_ap < d_an < d_ap + margin, un-squared, both strict; every negative where none satisfies it. False where (a, p) is no pair of
    two rows of one class. x [B, D], labels [B], -1 where withheld.
    """
    check_batch(x, labels)
    positive, negative = class_masks(labels)
    near = distances(x)
    return _candidates(near[:, None], near[:, :, None], negative[:, None], margin) & positive[:, :, None]


def _candidates(near: Tensor, to_positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Semi-hard columns, or all of `negative` where there is none; columns are the last dimension."""
    semihard = negative & (near > to_positive) & (near < to_positive + margin)
    return torch.where(semihard.any(dim=-1, keepdim=True), semihard, negative)


@torch.no_grad()
def semihard(
    x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None, *, margin: float = 0.2
) -> Triplets:
    """One triplet per anchor: a uniform class-mate, and a uniform one of `semihard_candidates`; shapes as in `Sampler`.

    `margin` is that of the loss. Anchors without a class-mate or without a negative are left out.
    """
    check_batch(x, labels, ref_x, ref_labels)
    positive, negative = class_masks(labels, ref_labels)
    near, positives = distances(x, ref_x), draw(positive)
    candidates = _candidates(near, near.gather(1, positives[:, None]), negative, margin)
    return triplets_of(positives, draw(candidates), positive, positive.any(dim=1) & negative.any(dim=1))

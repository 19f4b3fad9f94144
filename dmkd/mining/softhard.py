"""Soft-hard sampling: any pair that is wrongly ordered for its anchor (Roth and Brattoli 2019, as in Revisiting DML)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.mining.pairs import Triplets, check_batch, class_masks, distances, draw, triplets_of


@torch.no_grad()
def softhard_candidates(
    x: Tensor, labels: Tensor, *, ref_x: Tensor | None = None, ref_labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Bool [B, R] each: positives farther than the nearest negative, and negatives nearer than the farthest positive.

    Where an anchor has none such, all of its positives (negatives). Rows of anchors without a class-mate, or with label -1, are
    False. x [B, D], labels [B]; ref_x [R, D] and ref_labels [R], or the batch itself.
    """
    check_batch(x, labels, ref_x, ref_labels)
    positive, negative = class_masks(labels, ref_labels)
    negative = negative & positive.any(dim=1, keepdim=True)
    near = distances(x, ref_x)
    if near.numel() == 0:
        return positive, negative
    nearest = near.masked_fill(~negative, torch.inf).amin(dim=1, keepdim=True)
    farthest = near.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    return _or_all(positive & (near > nearest), positive), _or_all(negative & (near < farthest), negative)


def _or_all(candidates: Tensor, fallback: Tensor) -> Tensor:
    return torch.where(candidates.any(dim=1, keepdim=True), candidates, fallback)


@torch.no_grad()
def softhard(x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Triplets:
    """One triplet per anchor, positive and negative uniform in `softhard_candidates`; shapes as in `Sampler`.

    Anchors without a class-mate or without a negative are left out.
    """
    positive, negative = softhard_candidates(x, labels, ref_x=ref_x, ref_labels=ref_labels)
    return triplets_of(draw(positive), draw(negative), positive, positive.any(dim=1) & negative.any(dim=1))

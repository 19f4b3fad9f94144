"""Batch-hard mining: the farthest positive and the nearest negative of each anchor (Hermans et al. 2017; Yu et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.mining.pairs import Triplets, check_batch, class_masks, full_precision, squared_distances, triplets_of


@torch.no_grad()
def batch_hard(x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Triplets:
    """One triplet per anchor: the farthest row of its class (itself allowed) and the nearest row of any other; as in `Sampler`.

    Anchors without a negative are left out, and with a reference set those without a positive in it.
    """
    check_batch(x, labels, ref_x, ref_labels)
    positive, negative = class_masks(labels, ref_labels, itself=True)
    near = squared_distances(x, ref_x).clamp_min(0).to(full_precision(x).dtype)  # in the order of the distances
    if near.numel() == 0:
        return Triplets(labels.new_zeros((0, 3), dtype=torch.int64))
    far, farthest = torch.where(positive, near, -torch.inf).max(dim=1)
    close, nearest = torch.where(negative, near, torch.inf).min(dim=1)
    # Without one the infinity is left; NaN, which differs from it, is a distance.
    return triplets_of(farthest, nearest, positive, (far != -torch.inf) & (close != torch.inf))

"""Rho-regularised distance-weighted sampling (Roth et al. 2020, Revisiting Training Strategies): for R-margin."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.mining.distance_weighted import distance_weighted_probabilities
from dmkd.mining.pairs import Triplets, class_masks, distances, draw, triplets_of


@torch.no_grad()
def rho(
    x: Tensor,
    labels: Tensor,
    ref_x: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    switch: float = 0.2,
    lower_cutoff: float = 0.5,
    upper_cutoff: float | None = None,
) -> Triplets:
    """As `distance_weighted`, but with probability `switch` the triplet is (anchor, the anchor itself, a class-mate).

    Such a triplet pushes class-mates apart, which keeps the spectrum of the embedding flat. With a reference set the nearest row
    of the anchor's class stands for the anchor itself, and the rest of its class for the class-mates. Anchors without a
    class-mate are left out. The released code's default is 0.2; its runs with beta 0.6 use 0.4 on CUB, 0.35 on CARS, 0.15 on SOP.
    """
    probabilities = distance_weighted_probabilities(
        x, labels, lower_cutoff=lower_cutoff, upper_cutoff=upper_cutoff, ref_x=ref_x, ref_labels=ref_labels
    )
    positive, negative = class_masks(labels, ref_labels)
    itself, mates = _itself_and_mates(x, ref_x, positive)
    switched = (torch.rand(len(x), device=x.device) < switch) & mates.any(dim=1)
    positives = torch.where(switched, itself, draw(positive))
    negatives = torch.where(switched, draw(mates), draw(probabilities))
    return triplets_of(positives, negatives, positive, positive.any(dim=1) & (switched | negative.any(dim=1)))


def _itself_and_mates(x: Tensor, ref_x: Tensor | None, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Which column is the anchor itself [B], and which columns are its other class-mates, bool [B, R]."""
    if ref_x is None:
        return torch.arange(len(x), device=x.device), positive
    nearest = distances(x, ref_x).masked_fill(~positive, torch.inf).argmin(dim=1)
    return nearest, positive.scatter(1, nearest[:, None], False)

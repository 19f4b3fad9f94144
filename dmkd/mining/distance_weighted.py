"""Distance-weighted sampling: negatives drawn as if their distances were uniform (Wu et al. 2017, Sampling Matters)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.errors import DataError
from dmkd.mining.pairs import Triplets, check_batch, class_masks, distances, draw, triplets_of

_ENTRIES_AT_ONCE = 1 << 22
"""Weights held at a time: 16 MiB of float32."""


@torch.no_grad()
def distance_weighted_probabilities(
    x: Tensor,
    labels: Tensor,
    *,
    lower_cutoff: float = 0.5,
    upper_cutoff: float | None = None,
    floor: float = 0.0,
    ref_x: Tensor | None = None,
    ref_labels: Tensor | None = None,
) -> Tensor:
    """Probability [B, R] that row i draws column j as its negative: the inverse density of distances on the unit sphere.

    log w = (2 - D) log d - (D - 3) / 2 log(1 - d^2 / 4), d clamped from below at `lower_cutoff` and kept below 2, where w has its
    pole; class-mates and the row itself get none. Each row sums to 1, but is 0 for a row without any negative or with label -1.

    Args:
        x: embeddings [B, D] of unit length.
        labels: [B]; -1 where withheld.
        lower_cutoff: distances below it count as it.
        upper_cutoff: negatives at or beyond it get no weight (Wu et al.: 1.4); a row with no nearer one draws uniformly. None,
            the default, is the released code of Revisiting DML, S2SD and OBD-SD, which parses 1.4 and never applies it.
        floor: added to the weight of every entry, class-mates included, before normalising (RAML's teacher: 1e-6).
        ref_x: [R, D] where the negatives come from; the batch itself without it.
        ref_labels: [R].
    """
    check_batch(x, labels, ref_x, ref_labels)
    _, negative = class_masks(labels, ref_labels)
    far = distances(x, ref_x)
    logs = torch.where(negative, _log_weights(far.clamp(lower_cutoff, 2), x.shape[1]), 0.0)
    allowed = negative if upper_cutoff is None else negative & (far < upper_cutoff)
    # Entries of weight 0 count with log-weight 0 in the maximum, as released: it decides how much `floor` weighs.
    logs = torch.where(allowed | ~negative, logs, -torch.inf)
    weights = torch.where(allowed, torch.exp(logs - logs.amax(dim=1, keepdim=True)), 0.0) if logs.numel() else logs
    empty = weights.sum(dim=1, keepdim=True) == 0
    weights = torch.where(empty, negative.to(weights), weights)
    if floor:
        other = labels if ref_labels is None else ref_labels
        weights = weights + floor * ((other >= 0) & negative.any(dim=1, keepdim=True))
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def _log_weights(near: Tensor, dim: int) -> Tensor:
    below_pole = (1 - 0.25 * near.square()).clamp_min(torch.finfo(near.dtype).eps)
    return (2.0 - dim) * near.log() - 0.5 * (dim - 3) * below_pole.log()


@torch.no_grad()
def distance_weighted(
    x: Tensor,
    labels: Tensor,
    ref_x: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    lower_cutoff: float = 0.5,
    upper_cutoff: float | None = None,
) -> Triplets:
    """One triplet per anchor: a uniform class-mate (a lonely anchor takes itself), and a distance-weighted negative.

    Cutoffs as in `distance_weighted_probabilities`; shapes as in `Sampler`. Anchors without a negative are left out, and with a
    reference set those without a positive in it.
    """
    probabilities = distance_weighted_probabilities(
        x, labels, lower_cutoff=lower_cutoff, upper_cutoff=upper_cutoff, ref_x=ref_x, ref_labels=ref_labels
    )
    positive, negative = class_masks(labels, ref_labels)
    if ref_labels is None:
        positive |= torch.diag(~positive.any(dim=1) & (labels >= 0))
    return triplets_of(draw(positive), draw(probabilities), positive, positive.any(dim=1) & negative.any(dim=1))


@torch.no_grad()
def weighted_negatives(
    anchors: Tensor,
    pool: Tensor,
    anchor_labels: Tensor,
    pool_labels: Tensor,
    *,
    count: int = 4,
    lower_cutoff: float = 0.5,
    floor: float = 1e-6,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Positions [Q, count] in the pool, drawn for each anchor without replacement with `distance_weighted_probabilities`.

    RAML's teacher (Suma & Tolias 2023): the pool is a part of the training set, embedded once per epoch. anchors [Q, D], pool
    [P, D], anchor_labels [Q], pool_labels [P] (-1: never drawn). `floor` gives class-mates, and the anchor itself where it is in
    the pool, their share too, as released. `generator` belongs to the embeddings' device; without it torch's global one.
    Raises `DataError` where an anchor has fewer than `count` images of positive weight.
    """
    check_batch(anchors, anchor_labels, pool, pool_labels)
    rows = max(1, _ENTRIES_AT_ONCE // max(1, len(pool)))
    drawn = [pool_labels.new_zeros((0, count), dtype=torch.int64)]
    for some, own in zip(torch.split(anchors, rows), torch.split(anchor_labels, rows), strict=True):
        options = {"lower_cutoff": lower_cutoff, "floor": floor, "ref_x": pool, "ref_labels": pool_labels}
        weights = distance_weighted_probabilities(some, own, **options)  # type: ignore[arg-type]
        if bool(((weights > 0).sum(dim=1) < count).any()):
            raise DataError(
                f"{count} negatives are wanted of each anchor, but one has fewer to draw in a pool of {len(pool)} images: "
                "enlarge the pool, ask for fewer, or raise the floor"
            )
        # The first clocks to ring, of rates proportional to the weights, draw as multinomial without replacement does.
        clocks = torch.empty_like(weights).exponential_(generator=generator).clamp_min_(torch.finfo(weights.dtype).tiny)
        drawn.append((weights / clocks).topk(count, dim=1).indices)
    return torch.cat(drawn)

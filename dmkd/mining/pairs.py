"""What every sampler is made of: who is whose class-mate, how far apart they are, and drawing one of several at random."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dmkd.errors import ShapeError


class Triplets(NamedTuple):
    """Triplets, and which of them count. How many do is known to the device alone: to ask it would be to wait for it."""

    rows: Tensor
    """[M, 3] int64 (anchor, positive, negative)."""
    usable: Tensor | None = None
    """[M] bool; None: all of them. The rows of the others are valid indices and mean nothing."""

    def compact(self) -> Tensor:
        """Those that count; on a GPU the host waits for their number."""
        return self.rows if self.usable is None else self.rows[self.usable]


class Sampler(Protocol):
    """A sampler of triplets: rows of `x` as anchors, rows of `ref_x` (of `x` without one) as positives and negatives."""

    def __call__(self, x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Triplets:
        """Triplets for x [B, D], labels [B], ref_x [R, D], ref_labels [R]; no gradient.

        Rows with label -1 are in none that counts. Draws come from torch's global generator of the embeddings' device.
        """


class Miner(Protocol):
    """A `Sampler` that gives the triplets that count alone."""

    def __call__(self, x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Tensor:
        """[M, 3] int64 (anchor, positive, negative); arguments as of a `Sampler`."""


def class_masks(labels: Tensor, ref_labels: Tensor | None = None, itself: bool = False) -> tuple[Tensor, Tensor]:
    """Masks (positive, negative), bool [B, R]: same class (without the row itself, unless `itself`), and other classes.

    Rows and columns with label -1 are False in both. Without `ref_labels` the reference set is the batch, R = B.
    """
    other = labels if ref_labels is None else ref_labels
    labelled = labels >= 0
    known = labelled[:, None] & (labelled if ref_labels is None else other >= 0)
    positive = (labels[:, None] == other) & known
    negative = positive ^ known
    if ref_labels is None and not itself:
        positive.fill_diagonal_(False)
    return positive, negative


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32 where it is half or bfloat16 (their spacing is too coarse here); float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_batch(x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> None:
    """Raise `ShapeError` with the numbers unless x [B, D] and labels [B], and ref_x [R, D] and ref_labels [R], fit together."""
    if (ref_x is None) != (ref_labels is None):
        raise ShapeError("a reference set needs both ref_x and ref_labels: found only one of them")
    for name, rows, classes in (("x", x, labels), ("ref_x", ref_x, ref_labels)):
        if rows is None or classes is None:
            continue
        if rows.ndim != 2 or classes.shape != rows.shape[:1]:
            raise ShapeError(
                f"{name} {list(rows.shape)} with labels {list(classes.shape)}: wanted [B, D] embeddings and [B] labels"
            )
        if rows.shape[1] != x.shape[1]:
            raise ShapeError(
                f"x has dimension {x.shape[1]}, ref_x {rows.shape[1]}: wanted the same embedding space on both sides"
            )


@torch.no_grad()
def distances(x: Tensor, ref_x: Tensor | None = None) -> Tensor:
    """Euclidean distances [B, R] without gradient, float32 or float64 as `x`.

    As `differentiable_distances`.
    """
    return differentiable_distances(x, ref_x)


def differentiable_distances(x: Tensor, ref_x: Tensor | None = None, least: float = 0.0) -> Tensor:
    """Euclidean distances [B, R], float32 or float64 as `x`; those below `least` are `least`, without gradient."""
    return squared_distances(x, ref_x).clamp_min(least**2).sqrt().to(full_precision(x).dtype)


def squared_distances(x: Tensor, ref_x: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances, float64 [B, R]; of equal rows about 1e-16, of either sign.

    By the dot product in float64: as accurate as differences in float32 (distances of 1e-8 between equal rows), and many times
    faster.
    """
    rows = x.double()
    others = rows if ref_x is None else ref_x.double()
    own = rows.square().sum(dim=1)
    theirs = own if ref_x is None else others.square().sum(dim=1)
    return torch.addmm(own[:, None] + theirs, rows, others.T, alpha=-2)


def draw(weights: Tensor) -> Tensor:
    """One column per row of `weights` [B, R] (bool or non-negative), with probability proportional to its weight: int64 [B].

    A row of zeros gives an arbitrary column: its anchor does not count in `triplets_of`. The first of exponential clocks to ring
    draws exactly as torch.multinomial does, without its wait for the device.
    """
    weights = weights.float() if weights.dtype == torch.bool else weights
    if weights.shape[1] == 0:
        return torch.zeros(len(weights), dtype=torch.int64, device=weights.device)
    clocks = torch.empty_like(weights).exponential_().clamp_min_(torch.finfo(weights.dtype).tiny)
    return (weights / clocks).argmax(dim=1)


def triplets_of(positives: Tensor, negatives: Tensor, positive: Tensor, usable: Tensor) -> Triplets:
    """One triplet an anchor: positives [B], negatives [B], usable bool [B], `positive` [B, R] the mask they were drawn by."""
    anchors = torch.arange(len(positives), device=positives.device)
    rows = torch.stack((anchors, positives, negatives), dim=1)
    return Triplets(rows, usable) if positive.shape[1] else Triplets(rows[:0])

"""Triplet losses: sampled (Revisiting DML), batch-hard (Yu et al. 2019), and of tuples (asymmetric metric learning, RAML)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dmkd.losses.base import Sampled, SampledLoss, check_option, mean_or_zero, squared, triplet_rows, tuple_rows
from dmkd.mining.pairs import check_batch, class_masks, differentiable_distances, full_precision
from dmkd.space import Limit, Range

LEAST = 1e-6
"""Distance below which rows of batch-hard triplets count as one, without gradient."""


def triplet_loss(
    x: Tensor, triplets: Tensor, *, margin: float = 0.2, ref_x: Tensor | None = None, usable: Tensor | None = None
) -> Tensor:
    """Mean over all triplets, inactive ones included, of [|a - p|^2 - |a - n|^2 + margin]_+ (Schroff et al. 2015).

    x [B, D], triplets [M, 3], of which the `usable` count, [M] bool, where given; positives and negatives are rows of `ref_x`
    [R, D] where it is given. No triplet gives 0.
    """
    anchor, positive, negative = triplet_rows(x, triplets, ref_x)
    return mean_or_zero((squared(anchor - positive) - squared(anchor - negative) + margin).relu(), usable)


def batch_hard_triplet_loss(
    x: Tensor, labels: Tensor, *, margin: float = 0.0, ref_x: Tensor | None = None, ref_labels: Tensor | None = None
) -> Tensor:
    """Mean over anchors of [d(farthest positive) - d(nearest negative) + margin]_+, un-squared (Yu et al. 2019, Eq. 1).

    d = sqrt(max(|.|^2, 1e-12)), so an anchor without a class-mate is its own positive at 1e-6, without gradient; rows that are
    equally far share the gradient. An anchor without a negative is left out. The released code's margin is 0; the text names "m"
    alone. x [B, D], labels [B] (-1: left out), reference set as in `dmkd.mining.Miner`.
    """
    check_batch(x, labels, ref_x, ref_labels)
    positive, negative = class_masks(labels, ref_labels, itself=True)
    rows = full_precision(x)
    if positive.numel() == 0:
        return rows.sum() * 0
    loss: Tensor = _BatchHard.apply(rows, None if ref_x is None else full_precision(ref_x), (positive, negative), margin)
    return loss


class _BatchHard(torch.autograd.Function):
    """The loss with its gradient written out: only an anchor's two hardest rows have one, so most of a graph would be zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor | None, masks: tuple[Tensor, Tensor], margin: float) -> Tensor:
        """`others`: None where the batch is its own reference set."""
        positive, negative = masks
        distance = differentiable_distances(rows, others, least=LEAST)
        farthest = torch.where(positive, distance, -torch.inf).amax(dim=1, keepdim=True)
        nearest = torch.where(negative, distance, torch.inf).amin(dim=1, keepdim=True)
        hinge = farthest - nearest + margin
        usable = (farthest != -torch.inf) & (nearest != torch.inf)  # NaN is a distance
        count = usable.sum().clamp_min(1)
        share = _shares(positive & (distance == farthest), distance) - _shares(negative & (distance == nearest), distance)
        pull = share.mul_((usable & (hinge > 0)).to(distance.dtype) / count) * (distance > LEAST) / distance
        ctx.save_for_backward(rows, others, pull)
        return hinge.clamp_min(0).masked_fill(~usable, 0).sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Of d = |a - b| the gradient is (a - b) / d; in float64, since near duplicates cancel."""
        rows, others, pull = ctx.saved_tensors
        rows, pull = rows.double(), pull.double()
        if others is None:  # each row is an anchor and an other at once
            pull = pull + pull.T
            return (grad * (pull.sum(dim=1)[:, None] * rows - pull @ rows)).to(grad.dtype), None, None, None
        others = others.double()
        own = pull.sum(dim=1)[:, None] * rows - pull @ others
        theirs = pull.sum(dim=0)[:, None] * others - pull.T @ rows
        return (grad * own).to(grad.dtype), (grad * theirs).to(grad.dtype), None, None


def _shares(hardest: Tensor, like: Tensor) -> Tensor:
    """Equal weights, of sum 1, of the True of each row, of the type of `like`; zeros where there is none."""
    return hardest.to(like.dtype) / hardest.sum(dim=1, keepdim=True).clamp_min(1)


def tuple_triplet_loss(
    anchor: Tensor, others: Tensor, positive: Tensor, *, margin: float = 0.1, reduction: str = "sum"
) -> Tensor:
    """[|a - p|^2 - |a - n|^2 + margin]_+ over every (positive, negative) of every tuple (Budnik and Avrithis 2021, Eq. 5).

    Args:
        anchor: [Q, D].
        others: [Q, M, D], positives and negatives in any order.
        positive: [Q, M] bool.
        margin: on squared distances, as released; the text's margin of 0.1 on cosine similarity is twice as large.
        reduction: "sum", as released; "mean": over an anchor's positives x negatives, then over anchors. RAML's teacher is
            released with margin 0.7 and the sum over anchors, Q times that.

    Raises:
        ConfigError: unknown `reduction`.
        ShapeError: the three do not fit together.
    """
    check_option("reduction", reduction, ("sum", "mean"))
    anchors, rows = tuple_rows(anchor, others, positive)
    distance = squared(anchors - rows)
    pairs = positive[:, :, None] & ~positive[:, None, :]
    hinge = (distance[:, :, None] - distance[:, None, :] + margin).clamp_min(0) * pairs
    if reduction == "sum":
        return hinge.sum()
    return mean_or_zero(hinge.sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp_min(1))


class BatchHardTripletLoss(nn.Module):
    """`batch_hard_triplet_loss` as a module."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Tensor:
        """The loss of x [B, D], labels [B]; see `dmkd.losses.Loss.build`."""
        return batch_hard_triplet_loss(x, labels, margin=self.margin, ref_x=ref_x, ref_labels=ref_labels)


@dataclass(frozen=True)
class Triplet(Sampled):
    """Triplet loss; with the sampler "batch_hard" Yu's un-squared one (whose presets set margin 0, as released)."""

    name: ClassVar[str] = "triplet"
    margin: Annotated[float, Range(0.05, 1.0, log=True), Limit(minimum=0)] = 0.2

    def build(self, dim: int, classes: int) -> nn.Module:
        """See `Loss.build`."""
        if self.sampler == "batch_hard":
            return BatchHardTripletLoss(self.margin)
        return SampledLoss(self.find_sampler(self.margin), partial(triplet_loss, margin=self.margin))

"""Multi-similarity loss (Wang et al. 2019): of a batch, with its own mining, and of tuples (asymmetric metric learning)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from dmkd.losses.base import Loss, check_option, log1p_sum_exp, mean_or_zero, tuple_rows
from dmkd.mining.pairs import check_batch, class_masks, full_precision
from dmkd.space import Limit, Range


def multi_similarity_loss(
    x: Tensor,
    labels: Tensor,
    ref_x: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    alpha: float = 2,
    beta: float = 40,
    base: float = 0.5,
    epsilon: float | None = 0.1,
) -> Tensor:
    """Mean over kept anchors of log(1 + sum_p e^(-alpha (s - base))) / alpha + log(1 + sum_n e^(beta (s - base))) / beta.

    s is the dot product. Mining keeps negatives with s + epsilon > the least positive similarity and positives with s - epsilon <
    the largest negative one; an anchor that keeps no positive or no negative is skipped and does not count in the mean (Wang et
    al. 2019, with the mean of Revisiting DML's released code). 0, with a graph, where every anchor is skipped.

    Args:
        x: anchors [B, D].
        labels: [B]; -1: the row takes no part.
        ref_x: [R, D] where positives and negatives come from; the batch, without the anchor itself, if not given.
        ref_labels: [R].
        alpha: scale of the positives.
        beta: scale of the negatives.
        base: the similarity around which both bend.
        epsilon: mining margin; None: keep every pair.

    Raises:
        ShapeError: embeddings and labels do not fit together.
    """
    check_batch(x, labels, ref_x, ref_labels)
    positive, negative = class_masks(labels, ref_labels)
    similarity = _dot(x, x if ref_x is None else ref_x)
    if epsilon is not None:
        positive, negative = _mine(similarity.detach(), positive, negative, epsilon)
    kept = positive.any(dim=1) & negative.any(dim=1)
    pull = log1p_sum_exp(-alpha * (similarity - base), positive) / alpha
    push = log1p_sum_exp(beta * (similarity - base), negative) / beta
    return ((pull + push) * kept).sum() / kept.sum().clamp_min(1)


def _mine(similarity: Tensor, positive: Tensor, negative: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The pairs that mining keeps. A NaN is kept, so that it shows in the loss: hence the comparisons by their opposite."""
    if similarity.numel() == 0:
        return positive, negative
    least = similarity.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    largest = similarity.masked_fill(~negative, -torch.inf).amax(dim=1, keepdim=True)
    return positive & ~(similarity - epsilon >= largest), negative & ~(similarity + epsilon <= least)


def _dot(x: Tensor, ref_x: Tensor) -> Tensor:
    """x @ ref_x.T in full precision: under autocast, half precision would blur similarities by more than mining tells apart."""
    with torch.autocast(x.device.type, enabled=False):
        return full_precision(x) @ full_precision(ref_x).T


def tuple_multi_similarity_loss(
    anchor: Tensor,
    others: Tensor,
    positive: Tensor,
    *,
    alpha: float = 1,
    beta: float = 1,
    base: float = 0.6,
    reduction: str = "mean",
) -> Tensor:
    """Multi-similarity of tuples on the dot product, without mining (Budnik and Avrithis 2021, Eq. 6).

    anchor [Q, D], others [Q, M, D], positive [Q, M] bool. The constants are the text's; the released code has 2, 40 and 0.5.
    reduction: "mean" over anchors, or their "sum" (Eq. 1), by which the methods of tuples train. Raises `ConfigError` for an
    unknown reduction, `ShapeError` where the three do not fit together.
    """
    check_option("reduction", reduction, ("sum", "mean"))
    anchors, rows = tuple_rows(anchor, others, positive)
    similarity = (anchors * rows).sum(dim=-1)
    pull = log1p_sum_exp(-alpha * (similarity - base), positive) / alpha
    push = log1p_sum_exp(beta * (similarity - base), ~positive) / beta
    return (pull + push).sum() if reduction == "sum" else mean_or_zero(pull + push)


class MultiSimilarityLoss(nn.Module):
    """`multi_similarity_loss` as a module."""

    def __init__(self, alpha: float, beta: float, base: float, epsilon: float | None) -> None:
        super().__init__()
        self.constants = {"alpha": alpha, "beta": beta, "base": base, "epsilon": epsilon}

    def forward(self, x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Tensor:
        """The loss of x [B, D], labels [B]; see `dmkd.losses.Loss.build`."""
        return multi_similarity_loss(x, labels, ref_x, ref_labels, **self.constants)  # type: ignore[arg-type]


@dataclass(frozen=True)
class MultiSimilarity(Loss):
    """Multi-similarity loss; defaults of the released code of Revisiting DML, S2SD and OBD-SD."""

    name: ClassVar[str] = "multi_similarity"
    alpha: Annotated[float, Range(0.5, 10.0, log=True), Limit(above=0)] = 2.0
    beta: Annotated[float, Range(10.0, 100.0, log=True), Limit(above=0)] = 40.0
    base: Annotated[float, Range(0.2, 0.8), Limit(minimum=-1, maximum=1)] = 0.5
    epsilon: Annotated[float | None, Range(0.01, 0.5, log=True), Limit(minimum=0)] = 0.1
    """Mining margin; null: no mining."""

    def build(self, dim: int, classes: int) -> nn.Module:
        """See `Loss.build`."""
        return MultiSimilarityLoss(self.alpha, self.beta, self.base, self.epsilon)

"""Contrastive losses: of sampled triplets (Revisiting DML) and of tuples (asymmetric metric learning)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from dmkd.losses.base import Sampled, SampledLoss, check_option, mean_or_zero, triplet_rows, tuple_rows
from dmkd.space import Limit, Range

EPS = 1e-6
"""Added to every difference before its length is taken, as both released codes do."""


def contrastive_loss(
    x: Tensor,
    triplets: Tensor,
    *,
    positive_margin: float = 0.0,
    negative_margin: float = 1.0,
    ref_x: Tensor | None = None,
    usable: Tensor | None = None,
) -> Tensor:
    """Mean of [d_ap - positive_margin]_+ plus mean of [negative_margin - d_an]_+, un-squared (after Hadsell et al. 2006).

    d = |a - b + 1e-6|; both means are over all triplets, or over the `usable`, [M] bool. x [B, D], triplets [M, 3]; positives and
    negatives are rows of `ref_x` [R, D] where it is given. No triplet gives 0.
    """
    anchor, positive, negative = triplet_rows(x, triplets, ref_x)
    pull = (_length(anchor - positive + EPS) - positive_margin).relu()
    push = (negative_margin - _length(anchor - negative + EPS)).relu()
    return mean_or_zero(pull, usable) + mean_or_zero(push, usable)


def tuple_contrastive_loss(
    anchor: Tensor, others: Tensor, positive: Tensor, *, margin: float = 0.7, form: str = "released"
) -> Tensor:
    """Contrastive loss of tuples, summed over all of them (Budnik and Avrithis 2021, Eq. 4).

    Args:
        anchor: [Q, D].
        others: [Q, M, D], positives and negatives in any order; for Contrastive+ the teacher's anchor is one more positive.
        positive: [Q, M] bool.
        margin: on distances ("released") or on similarities ("paper").
        form: "released": sum of d^2 / 2 over positives and of [margin - d]_+^2 / 2 over negatives, d = |a - b + 1e-6|.
            "paper": with cosine similarity, minus the sum of s over positives plus the sum of [s - margin]_+ over negatives.

    Raises:
        ConfigError: unknown `form`.
        ShapeError: the three do not fit together.
    """
    check_option("form", form, tuple(_FORMS))
    anchors, rows = tuple_rows(anchor, others, positive)
    pull, push = _FORMS[form](anchors, rows, margin)
    return torch.where(positive, pull, push).sum()


def _released(anchors: Tensor, rows: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    difference = anchors - rows + EPS
    return 0.5 * difference.square().sum(dim=-1), 0.5 * (margin - _length(difference)).clamp_min(0).square()


def _paper(anchors: Tensor, rows: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    similarity = nn.functional.cosine_similarity(anchors, rows, dim=-1)
    return -similarity, (similarity - margin).relu()


_FORMS = {"released": _released, "paper": _paper}


def _length(difference: Tensor) -> Tensor:
    """Euclidean length of the last dimension, with gradient 0 at length 0."""
    length: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return length


@dataclass(frozen=True)
class Contrastive(Sampled):
    """Contrastive loss of sampled triplets, as in Revisiting DML."""

    name: ClassVar[str] = "contrastive"
    positive_margin: Annotated[float, Range(0.0, 0.5), Limit(minimum=0)] = 0.0
    negative_margin: Annotated[float, Range(0.5, 1.5), Limit(above=0)] = 1.0

    def build(self, dim: int, classes: int) -> nn.Module:
        """See `Loss.build`; the semi-hard sampler's margin, which this loss lacks, is the sampler's default, 0.2."""
        term = partial(contrastive_loss, positive_margin=self.positive_margin, negative_margin=self.negative_margin)
        return SampledLoss(self.find_sampler(margin=0.2), term)

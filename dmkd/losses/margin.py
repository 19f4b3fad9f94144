"""Margin loss with a learnable boundary per class (Wu et al. 2017), and R-margin (Roth et al. 2020) by its sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from dmkd.losses.base import Sampled, squared, triplet_rows
from dmkd.mining import Sampler
from dmkd.space import Limit, Range


def margin_loss(
    x: Tensor,
    labels: Tensor,
    triplets: Tensor,
    beta: Tensor | float,
    *,
    margin: float = 0.2,
    ref_x: Tensor | None = None,
    usable: Tensor | None = None,
) -> Tensor:
    """Sum of [d_ap - beta + margin]_+ + [beta - d_an + margin]_+ over the number of triplets with either hinge active.

    d = sqrt(|.|^2 + 1e-8) (Wu et al. 2017, with the normaliser of Revisiting DML's released code on current torch: a triplet with
    both hinges active counts once). 0, with a graph, where none is active.

    Args:
        x: [B, D].
        labels: [B], of which the anchors' choose their beta.
        triplets: [M, 3]; (a, a, p) is allowed, the R-margin triplet that pushes a class-mate away.
        beta: [classes], differentiable, or one number for all.
        margin: half-width of the band around beta.
        ref_x: [R, D] where positives and negatives come from; x itself without it.
        usable: [M] bool, which of the triplets count; all of them without it.
    """
    anchor, positive, negative = triplet_rows(x, triplets, ref_x)
    boundary = beta.to(anchor) if isinstance(beta, Tensor) else anchor.new_full((), beta)
    if boundary.ndim:
        boundary = boundary[labels[triplets[:, 0]]]
    pull = (_distance(anchor, positive) - boundary + margin).relu()
    push = (boundary - _distance(anchor, negative) + margin).relu()
    hinges, active = pull + push, (pull > 0) | (push > 0)
    if usable is not None:
        hinges, active = torch.where(usable, hinges, 0), active & usable
    return hinges.sum() / active.sum().clamp_min(1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (squared(a - b) + 1e-8).sqrt()


class MarginLoss(nn.Module):
    """`margin_loss` with its own betas [classes] and its own draws of triplets."""

    def __init__(self, sampler: Sampler, beta: Tensor, *, margin: float, beta_lr: float, constant: bool) -> None:
        super().__init__()
        self.sampler = sampler
        self.margin = margin
        self.beta_lr = beta_lr
        self.beta: Tensor
        if constant:
            self.register_buffer("beta", beta)
        else:
            self.register_parameter("beta", nn.Parameter(beta))

    def forward(self, x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Tensor:
        """The loss of x [B, D], labels [B]; see `dmkd.losses.Loss.build`."""
        triplets, usable = self.sampler(x, labels, ref_x, ref_labels)
        return margin_loss(x, labels, triplets, self.beta, margin=self.margin, ref_x=ref_x, usable=usable)

    def parameter_groups(self, lr: float) -> list[dict[str, object]]:
        """The betas at their own rate, whatever the global `lr`, without weight decay; none where they are constant."""
        return [{"params": [self.beta], "lr": self.beta_lr, "weight_decay": 0.0}] if self.beta.requires_grad else []


@dataclass(frozen=True)
class Margin(Sampled):
    """Margin loss; `Margin(beta=0.6, sampler="rho")` is R-margin. Defaults of the released code of Revisiting DML."""

    name: ClassVar[str] = "margin"
    margin: Annotated[float, Range(0.05, 0.5, log=True), Limit(minimum=0)] = 0.2
    beta: Annotated[float, Range(0.6, 1.2), Limit(above=0)] = 1.2
    """Where every class's boundary starts."""
    beta_lr: Annotated[float, Range(1e-5, 1e-2, log=True, when=("beta_constant", False)), Limit(minimum=0)] = 5e-4
    beta_constant: bool = False

    def build(self, dim: int, classes: int) -> nn.Module:
        """See `Loss.build`."""
        beta = torch.full((classes,), self.beta)
        sampler = self.find_sampler(self.margin)
        return MarginLoss(sampler, beta, margin=self.margin, beta_lr=self.beta_lr, constant=self.beta_constant)

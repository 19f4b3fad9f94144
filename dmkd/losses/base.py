"""What base losses share: the configuration class, the choice of a sampler, and the rows that triplets and tuples point at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from dmkd.errors import ConfigError, ShapeError
from dmkd.mining import SAMPLERS, Sampler, find_sampler
from dmkd.mining.pairs import full_precision
from dmkd.space import Choice, Limit, OneOf, Range, nearest


@dataclass(frozen=True)
class Loss:
    """Configuration of a base loss; a subclass adds its hyper-parameters, each with its paper's default and its range."""

    name: ClassVar[str]

    def build(self, dim: int, classes: int) -> nn.Module:
        """A module `loss(x [B, dim], labels [B], ref_x=None, ref_labels=None) -> scalar` for labels 0 .. classes - 1.

        Rows with label -1 are left out. With a reference set, anchors come from x, positives and negatives from ref_x alone. A
        batch that holds nothing to learn from gives 0, with a graph. A module whose parameters want a rate of their own has
        `parameter_groups(lr)`. Raises `ConfigError` for an unknown name.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Sampled(Loss):
    """A loss of triplets, and which triplets of the batch it sees."""

    sampler: Annotated[str, OneOf(tuple(SAMPLERS))] = "distance_weighted"
    upper_cutoff: Annotated[float | None, Choice((None, 1.4), when=("sampler", "distance_weighted")), Limit(above=0)] = None
    """Distance-weighted negatives: none at or beyond this distance; null, as released: no limit."""
    switch: Annotated[float, Range(0.05, 0.5, when=("sampler", "rho")), Limit(minimum=0, maximum=1)] = 0.2
    """Rho sampler: probability of a triplet that pushes class-mates apart (runs with beta 0.6: CUB 0.4, CARS 0.35, SOP 0.15)."""

    def find_sampler(self, margin: float) -> Sampler:
        """The sampler with what it needs to know (semi-hard: the loss's margin). Raises `ConfigError` for an unknown name."""
        options: dict[str, dict[str, float | None]] = {
            "distance_weighted": {"upper_cutoff": self.upper_cutoff},
            "rho": {"upper_cutoff": self.upper_cutoff, "switch": self.switch},
            "semihard": {"margin": margin},
        }
        return find_sampler(self.sampler, **options.get(self.sampler, {}))


class SampledLoss(nn.Module):
    """Draws triplets of a batch and gives them to `term(x, triplets, usable=..., ref_x=...)`."""

    def __init__(self, sampler: Sampler, term: Callable[..., Tensor]) -> None:
        super().__init__()
        self.sampler = sampler
        self.term = term

    def forward(self, x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Tensor:
        """The loss of x [B, D], labels [B]; see `Loss.build`."""
        triplets, usable = self.sampler(x, labels, ref_x, ref_labels)
        return self.term(x, triplets, usable=usable, ref_x=ref_x)


def triplet_rows(x: Tensor, triplets: Tensor, ref_x: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Anchor, positive and negative rows [M, D] each; the latter two from `ref_x` where it is given."""
    if triplets.ndim != 2 or triplets.shape[1] != 3:
        raise ShapeError(f"triplets: found shape {list(triplets.shape)}, wanted [M, 3] indices (anchor, positive, negative)")
    x = full_precision(x)
    other = x if ref_x is None else full_precision(ref_x)
    anchor, positive, negative = triplets.unbind(dim=1)
    return x[anchor], other[positive], other[negative]


def tuple_rows(anchor: Tensor, others: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors [Q, 1, D] and others [Q, M, D], in float32 or float64. Raises `ShapeError` where the three do not fit together."""
    fits = others.ndim == 3 and anchor.shape == (others.shape[0], others.shape[2]) and positive.shape == others.shape[:2]
    if not fits:
        found = ", ".join(str(list(tensor.shape)) for tensor in (anchor, others, positive))
        raise ShapeError(f"anchor, others, positive: found shapes {found}, wanted [Q, D], [Q, M, D], [Q, M]")
    return full_precision(anchor)[:, None], full_precision(others)


def squared(difference: Tensor) -> Tensor:
    """Squared length of the last dimension."""
    return difference.square().sum(dim=-1)


def mean_or_zero(values: Tensor, usable: Tensor | None = None) -> Tensor:
    """The mean (of the `usable`, where given), and 0 with a graph where there is nothing to average."""
    if usable is None:
        return values.sum() / max(values.numel(), 1)
    return torch.where(usable, values, 0).sum() / usable.sum().clamp_min(1)


def log1p_sum_exp(logits: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum over the last dimension of exp(logits) where mask): overflow-safe, and 0 (gradient 0) for an empty mask."""
    kept = logits.masked_fill(~mask, -torch.inf)
    return torch.logsumexp(nn.functional.pad(kept, (0, 1)), dim=-1)


def check_option(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raise `ConfigError` with the nearest name unless `value` is one of `options`."""
    if value not in options:
        raise ConfigError(f"{name}: unknown {value!r}: {nearest(value, options)}")

"""Pooling of a feature map [B, C, h, w] to one vector [B, C] an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmkd.errors import ShapeError


def full_precision(x: Tensor) -> Tensor:
    """`x`, raised to float32 where mixed precision made it 16 bits: sums of powers and norms lose too much there."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def exactly(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)` outside mixed precision: for the last layer, whose rounding nothing after it averages out."""
    if x.device.type not in ("cpu", "cuda") or not torch.is_autocast_enabled(x.device.type):
        return module(x)  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        return module(x)  # type: ignore[no-any-return]


def unit_length(x: Tensor, eps: float = 1e-6) -> Tensor:
    """`x [..., D]` divided by its length; a vector shorter than `eps` is divided by `eps` (zero stays zero)."""
    x = full_precision(x)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp_min(eps)


def average(feature_map: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C]: the mean over places."""
    return feature_map.mean((-2, -1))


def maximum(feature_map: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C]: the largest value over places."""
    return feature_map.amax((-2, -1))


def average_max(feature_map: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C]: mean plus maximum ("double" pooling of S2SD's MSDFA and of OBD-SD's 512-d runs)."""
    return average(feature_map) + maximum(feature_map)


def gem(feature_map: Tensor, p: Tensor | float, eps: float = 1e-6) -> Tensor:
    """Generalised mean: (mean of max(x, eps)^p)^(1/p). [B, C, h, w] -> [B, C], not normalised.

    `p` is a number, or a tensor of one element or of one a channel, [C] (learnable); 1 is the average, large values approach the
    maximum. Raises `ShapeError` for another number of exponents. Radenovic et al., Fine-tuning CNN Image Retrieval with No Human
    Annotation, Eq. 3; used by AML and RAML with p = 3.
    """
    powers = p
    if isinstance(p, Tensor) and p.numel() > 1:
        if p.numel() != feature_map.shape[1]:
            raise ShapeError(
                f"gem: found {p.numel()} exponents for {feature_map.shape[1]} channels, wanted one, or one a channel"
            )
        powers = p.view(-1, 1, 1)
    return full_precision(feature_map).clamp(min=eps).pow(powers).mean((-2, -1)).pow(1.0 / p)


class GeM(nn.Module):
    """`gem` with a learnable exponent `p`, from 3."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p))
        self._eps = eps

    def forward(self, feature_map: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C]."""
        return gem(feature_map, self.p, self._eps)


class Pool(nn.Module):
    """One of the poolings without parameters, as a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, feature_map: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C]."""
        return POOLINGS[self.name](feature_map)


POOLINGS = {"average": average, "max": maximum, "average+max": average_max}
"""Poolings without parameters, by the name in `Network.pooling`; "gem" has one and is `GeM`."""


def make_pooling(name: str) -> nn.Module:
    """The pooling module of `Network.pooling`."""
    return GeM() if name == "gem" else Pool(name)

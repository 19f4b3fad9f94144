"""Descriptors of whole pictures at several scales, as the landmark tests use them (Radenovic et al. 2018; AML, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmkd.models.embedder import EmbeddingNet
from dmkd.models.pooling import GeM, full_precision, unit_length
from dmkd.models.sized import forward_sized


@dataclass(frozen=True)
class Described:
    """What `MultiScale` gives."""

    embedding: Tensor
    """[B, D], unit length."""


class MultiScale(nn.Module):
    """Pictures [3, h, w] of any sizes -> one vector each: the generalised mean of the network's over `scales`, normalised."""

    def __init__(self, network: EmbeddingNet, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.network, self.scales = network, scales
        self.power = scale_power(network) if len(scales) > 1 else 1.0

    def forward(self, images: Sequence[Tensor]) -> Described:
        """Descriptors of the pictures, in their order."""
        vectors = [forward_sized(self.network, [rescaled(image, scale) for image in images]) for scale in self.scales]
        if len(vectors) == 1:
            return Described(vectors[0].embedding)
        return Described(mean_over_scales([full_precision(vector.embedding) for vector in vectors], self.power))


def scale_power(network: EmbeddingNet) -> float:
    """The exponent of the mean over scales: the learned one of GeM where the embedding is what GeM gives, else 1.

    After a linear layer embeddings have negative entries, of which there is no power (the released code takes 1 there too).
    """
    head = network.head
    if isinstance(head.pool, GeM) and isinstance(head.linear, nn.Identity):
        return float(head.pool.p.detach())
    return 1.0


def mean_over_scales(vectors: Sequence[Tensor], power: float) -> Tensor:
    """[N, D] of unit length: the generalised mean of vectors [N, D], one for each scale: mean(v^p)^(1/p)."""
    mean = sum((vector.pow(power) for vector in vectors), torch.zeros_like(vectors[0])) / len(vectors)
    return unit_length(mean.pow(1 / power))


def rescaled(image: Tensor, scale: float) -> Tensor:
    """[3, floor(scale h), floor(scale w)] of an image [3, h, w], bilinear between pixel centres without antialiasing."""
    if scale == 1:
        return image
    return nn.functional.interpolate(image[None], scale_factor=scale, mode="bilinear", align_corners=False)[0]

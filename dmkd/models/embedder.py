"""EmbeddingNet: images -> Features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What a network gives for B images."""

    embedding: Tensor
    """[B, D], unit length."""
    pooled: Tensor
    """[B, C]"""
    feature_map: Tensor
    """[B, C, h, w]"""
    stages: Mapping[str, Tensor] = field(default_factory=dict)
    """Only the stages asked for."""

"""What a network does to pictures before its first layer: it normalises them itself, so student and teacher may differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Preprocess:
    """Normalisation of RGB pictures in [0, 1], and how they were resized before.

    `mean` and `std` are in the channel order that the network sees (blue first where `bgr`), in units of [0, 1].
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    bgr: bool = False
    interpolation: str = "bilinear"
    """Filter (antialiased) of the loader that trains and tests the network, whatever the published weights saw."""


class Normalize(nn.Module):
    """`Preprocess` as a module: [B, 3, H, W] RGB in [0, 1] -> [B, 3, H, W] as the backbone wants it."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self._bgr = preprocess.bgr
        # Not persistent: they belong to model.json, and a state_dict holds what is learnt.
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Flip the channels where the network wants blue first, then (images - mean) / std."""
        ordered = images.flip(1) if self._bgr else images
        return (ordered - self.mean) / self.std

"""Pictures of different sizes through one network: one pass for each size, nothing padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmkd.errors import ConfigError, ShapeError
from dmkd.models.embedder import Features


class SizedFeatures(Features):
    """Embeddings and pooled vectors of pictures whose feature maps differ in size, so that there is no one map of them."""

    def __init__(self, embedding: Tensor, pooled: Tensor) -> None:
        for name, value in {"embedding": embedding, "pooled": pooled, "stages": {}}.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "feature_map":
            raise ConfigError(
                "data.transform=max_side: this method reads feature maps, and those of pictures of different sizes do not fit "
                "together: set data.transform=centre_crop"
            )
        raise AttributeError(name)


def cut(images: Tensor, sizes: Tensor) -> list[Tensor]:
    """The pictures [3, h, w] in the upper left corners of images [R, 3, H, W]; sizes [R, 2] are their heights and widths."""
    return [image[:, :height, :width] for image, (height, width) in zip(images, sizes.tolist(), strict=True)]


def forward_sized(network: nn.Module, images: Sequence[Tensor]) -> SizedFeatures:
    """Features of pictures [3, h, w] of any sizes, in their order, differentiable as those of one batch.

    Pictures of one size go through the network together. Raises `ShapeError` where it does not take a size.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault(tuple(image.shape[1:]), []).append(position)
    parts = [_pass(network, torch.stack([images[position] for position in group])) for group in groups.values()]
    places = [position for group in groups.values() for position in group]
    order = sorted(range(len(places)), key=places.__getitem__)
    return SizedFeatures(*(_in_order([getattr(part, name) for part in parts], order) for name in ("embedding", "pooled")))


def _in_order(parts: list[Tensor], order: list[int]) -> Tensor:
    """The rows of `parts` in this order, row by row: indices would have to be copied to a GPU, which the host would wait for."""
    rows = torch.cat(parts).unbind()
    return torch.stack([rows[place] for place in order])


def _pass(network: nn.Module, images: Tensor) -> Features:
    try:
        features: Features = network(images)
    except AssertionError as error:  # how token networks of a fixed size refuse others
        height, width = images.shape[2:]
        raise ShapeError(
            f"the network does not take pictures of {height} x {width} px ({' '.join(str(error).split())[:100]}): "
            "data.transform=max_side and the landmark tests want a convolutional one"
        ) from None
    return features

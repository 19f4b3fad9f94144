"""From images to embeddings, outside training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dmkd.data.batches import unit_range
from dmkd.errors import DataError
from dmkd.heap import Heap


def embed(net: nn.Module, batches: Iterable[Tensor | list[Tensor]], device: torch.device | str) -> Tensor:
    """[N, D] float32 embeddings on the CPU of N images that come in batches [B, 3, H, W], in their order.

    Images are in [0, 1], or uint8 in 0 .. 255.

    A batch may also be a list of images of any sizes, for a `net` that takes such lists (`multiscale.MultiScale`).

    `net` gives `Features`. It runs in eval mode without a graph; afterwards each of its modules is in the mode it was in,
    so frozen batch-norm stays frozen. The result may enter a graph. Raises `DataError` when there is no image.
    """
    modes = [(module, module.training) for module in net.modules()]
    parts: list[Tensor] = []
    heap = Heap(torch.device(device))
    net.eval()
    try:
        with torch.inference_mode():
            for images in batches:
                if parts:  # one batch alone is no reason to keep anything
                    heap.after_step()
                parts.append(net(_to(images, device)).embedding.float())
    finally:
        heap.release()
        for module, training in modes:
            module.training = training
    if not parts:
        raise DataError("there is no image to embed")
    return torch.cat(parts).cpu()


def _to(images: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    if isinstance(images, Tensor):
        return unit_range(images.to(device, non_blocking=True))
    return [image.to(device, non_blocking=True) for image in images]

"""What networks there are, and what one costs."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dmkd.models.backbones import backbone_names
from dmkd.models.trunk import without_data

__all__ = ["backbone_names", "count_gflops", "count_parameters"]


def count_parameters(net: nn.Module) -> int:
    """Elements of all parameters of `net` (buffers such as running statistics do not count)."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_gflops(net: nn.Module, resolution: int) -> float:
    """Cost of one RGB image of `resolution` px, in 1e9 multiply-adds of convolutions, linear layers and attention.

    A multiply-add counts *one*, as in the papers and in torchvision's tables (ResNet-50 with classifier at 224 px: 4.09); many
    profilers count it twice. Nothing is computed: the pass runs on shapes alone.
    """
    shadow = without_data(net).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.zeros(1, 3, resolution, resolution, device="meta"))
    return float(counter.get_total_flops()) / 2 / 1e9

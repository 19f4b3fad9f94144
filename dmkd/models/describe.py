"""What a network is, what it costs, and which settings say nothing to it: `dmkd networks`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmkd.errors import ShapeError
from dmkd.models.backbones import build_backbone, without_values
from dmkd.models.efficientnet_lite import package_of
from dmkd.models.from_papers import INCEPTION_FILE, NO_WEIGHTS, PAPERS
from dmkd.models.from_timm import TimmBackbone
from dmkd.models.from_torchvision import published_name
from dmkd.models.registry import count_gflops, count_parameters
from dmkd.models.trunk import Backbone, without_data

NAMED: dict[str, tuple[str, int]] = {
    "resnet18": ("ResNet", 224),
    "resnet50": ("ResNet", 224),
    "resnet101": ("ResNet", 224),
    "vgg16": ("VGG", 224),
    "mobilenet_v1_025": ("MobileNetV1", 224),
    "mobilenet_v2": ("MobileNetV2", 224),
    "timm/tf_efficientnet_b3": ("EfficientNet", 300),
    "timm/tf_efficientnet_lite0": ("EfficientNet", 224),
    "bninception": ("Inception with batch-norm", 224),
    "densenet121": ("DenseNet", 224),
    "regnet_y_400mf": ("RegNet", 224),
    "convnext_tiny": ("ConvNeXt", 224),
    "swin_t": ("Swin", 224),
    "timm/vit_small_patch16_224": ("ViT", 224),
    "timm/vit_small_patch14_dinov2": ("ViT (DINOv2)", 224),
}
"""Family and usual resolution (pixels) of the networks that the papers used and of one or two of each further tested family."""


@dataclass(frozen=True)
class Described:
    """A backbone without its classifier and without an embedding layer."""

    name: str
    family: str
    resolution: int
    """Side of the images that `gflops` and `stride` are of, pixels."""
    parameters: int
    gflops: float
    """1e9 multiply-adds an image; one multiply-add counts one."""
    channels: int
    stride: int
    """Pixels a side for each place of the feature map."""
    stages: Mapping[str, int]
    """Channels of the blocks that may be asked for by name; modules inside them may be asked for, too."""
    weights: str
    """Where `weights: imagenet` finds them."""
    notes: tuple[str, ...]
    """What of the configuration does not apply, and what its images must be."""


def describe(name: str, resolution: int = 0) -> Described:
    """`name` (any that `Network.backbone` takes) on images of `resolution` px; 0: its usual one, 224 where none is known.

    Nothing is computed and no weights are read. Raises `ConfigError` (name) and `ShapeError` (resolution).
    """
    family, usual = NAMED.get(name, ("", 224))
    side = resolution or usual
    backbone = _made(name, side)
    other = 448 if side != 448 else 224  # both are multiples of 32 (strides) and of 14 (patches)
    height = _height(backbone, other)
    return Described(
        name=name,
        family=family or type(backbone.body).__name__,
        resolution=side,
        parameters=count_parameters(backbone),
        gflops=count_gflops(backbone, side),
        channels=backbone.channels,
        stride=round(other / height) if height else round(side / (_height(backbone, side) or 1)),
        stages=dict(backbone.stage_channels),
        weights=_source(backbone),
        notes=tuple(_notes(backbone, bool(height))),
    )


def _made(name: str, resolution: int) -> Backbone:
    try:
        return without_values(name, resolution)
    except ShapeError:
        return build_backbone(name, resolution)  # whose message names the sizes that fit


def _height(backbone: Backbone, resolution: int) -> int:
    """Rows of the feature map of an image of `resolution` px; 0 where the network, as it was made, does not take it."""
    try:
        with torch.no_grad():
            feature_map, _ = without_data(backbone).eval()(torch.zeros(1, 3, resolution, resolution, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return 0
    return int(feature_map.shape[-2])


def _source(backbone: Backbone) -> str:
    """Where the ImageNet weights come from, in words."""
    package = package_of(backbone.name)
    if package:
        return f"package {package}, else timm's"
    if backbone.name in NO_WEIGHTS:
        return f"none published ({NO_WEIGHTS[backbone.name]})"
    if backbone.name in PAPERS:
        return INCEPTION_FILE
    if isinstance(backbone, TimmBackbone):
        published: Any = backbone.body.pretrained_cfg
        place = published.get("hf_hub_id") or published.get("url")
        return str(place) if place else "none published"
    if backbone.name.endswith("_v1"):
        return "none published"
    choices = torchvision.models.get_model_weights(published_name(backbone.name))
    return f"torchvision, {getattr(choices, 'IMAGENET1K_V1', choices.DEFAULT).name}"


def _notes(backbone: Backbone, other_sizes: bool) -> list[str]:
    layers = {type(module).__name__ for module in backbone.modules() if not any(module.children())}
    norms = ", ".join(sorted(layer for layer in layers if "Norm" in layer)) or "none"
    notes = []
    if not any(isinstance(module, _BatchNorm) for module in backbone.modules()):
        notes.append(f"frozen_batchnorm has no effect: there is no batch-norm (normalisation: {norms})")
    elif backbone.name in NO_WEIGHTS:
        notes.append("without weights to start from, train its batch-norm: frozen_batchnorm: false")
    if backbone.prefix_tokens:
        notes.append(f"the feature map is its patch tokens: {backbone.prefix_tokens} class or register tokens are left out")
    if not other_sizes:
        notes.append("made for images of student.resolution alone: it cannot be measured at other query resolutions")
    elif _has_positions(backbone.body):
        notes.append("position embeddings are interpolated where the images are not of the size of the weights")
    return notes


def _has_positions(body: nn.Module) -> bool:
    return any(name.rpartition(".")[2] in ("pos_embed", "pos_embedding") for name, _ in body.named_parameters())

"""Backbones of torchvision, by the names of `torchvision.models`, and two layouts of other code: v1 strides, no last pooling.

torchvision is imported where a network is made: it takes seconds, which who only handles configurations need not wait for.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from dmkd.models.preprocess import Preprocess
from dmkd.models.trunk import Backbone

_INCEPTION = "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2 Mixed_5b Mixed_5c Mixed_5d"
_INCEPTION += " Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c"
_GOOGLENET = "conv1 maxpool1 conv2 conv3 maxpool2 inception3a inception3b maxpool3 inception4a inception4b inception4c"
_GOOGLENET += " inception4d inception4e maxpool4 inception5a inception5b"

TRUNKS: dict[str, str] = {
    "AlexNet": "features",
    "ConvNeXt": "features",
    "DenseNet": "features last_relu",
    "EfficientNet": "features",
    "GoogLeNet": _GOOGLENET,
    "Inception3": _INCEPTION,
    "MNASNet": "layers",
    "MaxVit": "stem blocks",
    "MobileNetV2": "features",
    "MobileNetV3": "features",
    "RegNet": "stem trunk_output",
    "ResNet": "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4",
    "ShuffleNetV2": "conv1 maxpool stage2 stage3 stage4 conv5",
    "SqueezeNet": "features",
    "SwinTransformer": "features norm",
    "VGG": "features",
    "VisionTransformer": "conv_proj encoder",
}
"""The children that make the last feature map, in order, by the class of the model; the others are heads and are removed."""

V1_LAYOUT = ("resnet50", "resnet101", "resnet152")
"""Networks that also exist as `<name>_v1`: stride in the first 1x1 convolution of a block (He et al. 2015), not in the 3x3."""

UNPOOLED = ("alexnet", "vgg11", "vgg13", "vgg16", "vgg19")
"""Networks that also exist as `<name>_unpooled`: without the last max-pooling, as the landmark networks use them."""

_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


@lru_cache(maxsize=1)
def torchvision_names() -> tuple[str, ...]:
    """Every classification network of torchvision, the v1 layouts, and those without their last pooling."""
    import torchvision

    other = (*(f"{name}_v1" for name in V1_LAYOUT), *(f"{name}_unpooled" for name in UNPOOLED))
    return (*torchvision.models.list_models(module=torchvision.models), *other)


def published_name(name: str) -> str:
    """Torchvision's own name of the network whose layout `name` is."""
    return name.removesuffix("_v1").removesuffix("_unpooled")


class TorchvisionBackbone(Backbone):
    """A torchvision network, run child by child up to its last feature map."""

    def __init__(self, name: str, body: nn.Module) -> None:
        steps = TRUNKS[type(body).__name__].split()
        if "last_relu" in steps:
            body.add_module("last_relu", nn.ReLU())  # DenseNet applies it in its own forward, which is not used here
        heads = tuple(child for child, _ in body.named_children() if child not in steps)
        for head in heads:
            delattr(body, head)
        super().__init__(name, body, _preprocess(name), tuple(f"{head}." for head in heads))
        self._steps = [step for child in steps for step in _unroll(body, child)]
        self.channels_come_last = type(body).__name__ == "SwinTransformer"

    def trunk(self, images: Tensor) -> Tensor:
        """See `Backbone.trunk`."""
        for step in self._steps:
            images = self.body.get_submodule(step)(images)
        return images

    def candidates(self) -> list[str]:
        """What may be asked for as a stage: the steps that are blocks, and the layers of a network that is one sequence."""
        blocks: list[str] = []
        for step in self._steps:
            module = self.body.get_submodule(step)
            if step in ("features", "layers", "trunk_output"):
                blocks += [f"{step}.{child}" for child, _ in module.named_children()]
            elif any(module.children()):
                blocks.append(step)
        return blocks


class ResNetBackbone(TorchvisionBackbone):
    """torchvision's ResNets, whose blocks use one ReLU several times.

    Stages inside a block: "layer1.2.conv2" is what the convolution gives, before batch-norm and ReLU; "layer1.2.relu2" is what
    the block's second ReLU gives: the same map after batch-norm and ReLU. The block itself is "layer1.2" (or "layer1.2.relu", its
    last ReLU). "layer1.2.bn2" cannot be had, as the ReLU overwrites it.
    """

    def place(self, stage: str) -> tuple[str, int]:
        """See `Backbone.place`."""
        numbered = re.fullmatch(r"(.+\.relu)(\d)", stage)
        return (numbered[1], int(numbered[2])) if numbered else (stage, 0)


class VisionTransformerBackbone(TorchvisionBackbone):
    """torchvision's ViT on images of any size that its patches divide: position embeddings are interpolated, bicubic."""

    def __init__(self, name: str, body: nn.Module) -> None:
        super().__init__(name, body)
        self.prefix_tokens = 1

    def trunk(self, images: Tensor) -> Tensor:
        """[B, 1 + hw, C] tokens after the last norm, the class token first."""
        body: Any = self.body
        patches = body.conv_proj(images)
        tokens = torch.cat([body.class_token.expand(images.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        encoder = body.encoder
        tokens = tokens + _resized(encoder.pos_embedding, patches.shape[-2], patches.shape[-1])
        last: Tensor = encoder.ln(encoder.layers(encoder.dropout(tokens)))
        return last

    def candidates(self) -> list[str]:
        """The encoder's layers."""
        return [f"encoder.layers.{child}" for child, _ in self.body.get_submodule("encoder.layers").named_children()]


def build_torchvision(name: str) -> TorchvisionBackbone:
    """The backbone `name` with random weights; not probed yet."""
    import torchvision

    plain = published_name(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of what its defaults will be one day
        body = torchvision.models.get_model(plain, weights=None, **_ARGUMENTS.get(plain, {}))
    if name.endswith("_v1"):
        _move_strides(body)
    if name.endswith("_unpooled"):
        del body.features[-1]
    kinds = {"VisionTransformer": VisionTransformerBackbone, "ResNet": ResNetBackbone}
    return kinds.get(type(body).__name__, TorchvisionBackbone)(name, body)


def _move_strides(body: nn.Module) -> None:
    """The v1 layout: layer2 .. layer4 halve the map in their first 1x1 convolution."""
    for layer in ("layer2", "layer3", "layer4"):
        block: Any = body.get_submodule(f"{layer}.0")
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def _preprocess(name: str) -> Preprocess:
    if name in _ARGUMENTS:  # these two map ImageNet's normalisation to [-1, 1] in their own forward, which is not used here
        return Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    if name.endswith("_v1"):
        return Preprocess()
    import torchvision

    preset = next(iter(torchvision.models.get_model_weights(published_name(name)))).transforms()
    return Preprocess(tuple(preset.mean), tuple(preset.std))


def _unroll(body: nn.Module, child: str) -> list[str]:
    module = body.get_submodule(child)
    return [f"{child}.{inner}" for inner, _ in module.named_children()] if isinstance(module, nn.ModuleList) else [child]


def _resized(positions: Tensor, height: int, width: int) -> Tensor:
    """[1, 1 + n, C] position embeddings of a square grid, as [1, 1 + height * width, C]."""
    side = int((positions.shape[1] - 1) ** 0.5)
    if (side, side) == (height, width):
        return positions
    grid = positions[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    resized = nn.functional.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], 1)

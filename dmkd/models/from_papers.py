"""Networks of the papers that neither torchvision nor timm has: MobileNetV1 at small widths, Inception with batch-norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dmkd.models.preprocess import Preprocess
from dmkd.models.trunk import Backbone

WIDTHS = {"mobilenet_v1_025": 0.25, "mobilenet_v1_050": 0.5, "mobilenet_v1_075": 0.75}
"""MobileNetV1 by its width multiplier; width 1 is timm's "timm/mobilenetv1_100", which has published weights."""

NO_WEIGHTS = dict.fromkeys(WIDTHS, "torchvision has no MobileNetV1, timm has the widths 1 and 1.25 only")
"""Why no ImageNet weights can be had for a name."""

INCEPTION_FILE = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
"""The weights of Inception with batch-norm that S2SD and OBD-SD started from: Caffe's, with the names of pretrainedmodels."""

_SEPARABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels (at width 1) and stride of each depthwise separable block (Howard et al. 2017, table 1)."""

_Branch = tuple[int, int]
_INCEPTION: dict[str, tuple[int, _Branch, _Branch, str, int]] = {
    "inception_3a": (64, (64, 64), (64, 96), "average", 32),
    "inception_3b": (64, (64, 96), (64, 96), "average", 64),
    "inception_3c": (0, (128, 160), (64, 96), "max", 0),
    "inception_4a": (224, (64, 96), (96, 128), "average", 128),
    "inception_4b": (192, (96, 128), (96, 128), "average", 128),
    "inception_4c": (160, (128, 160), (128, 160), "average", 128),
    "inception_4d": (96, (128, 192), (160, 192), "average", 128),
    "inception_4e": (0, (128, 192), (192, 256), "max", 0),
    "inception_5a": (352, (192, 320), (160, 224), "average", 128),
    "inception_5b": (352, (192, 320), (192, 224), "max", 128),
}
"""Channels of the branches 1x1; 3x3 (reduced, out); two 3x3 (reduced, out); the pooling and its projection. 0: no such layer,
and the block halves the map. Ioffe and Szegedy 2015, figure 5, with the counts of the distributed weights."""


class PaperBackbone(Backbone):
    """A body that gives its last feature map itself; `blocks` are the stages."""

    def __init__(self, name: str, body: nn.Module, blocks: list[str], preprocess: Preprocess) -> None:
        super().__init__(name, body, preprocess, ("last_linear.",))
        self._blocks = blocks

    def trunk(self, images: Tensor) -> Tensor:
        """See `Backbone.trunk`."""
        feature_map: Tensor = self.body(images)
        return feature_map

    def candidates(self) -> list[str]:
        """The blocks."""
        return self._blocks


def mobilenet_v1(width: float) -> nn.Sequential:
    """MobileNetV1 without its classifier: a 3x3 convolution with stride 2, then 13 depthwise separable blocks.

    Every convolution is followed by batch-norm and ReLU; the channels of all layers are `width` times those of table 1.
    Howard et al. 2017, "MobileNets". `width` 0.25 is the student of Yu et al. 2019, table 5.
    """
    body, channels = nn.Sequential(), round(32 * width)
    body.add_module("stem", _convolution(3, channels, 3, 2))
    for number, (full, stride) in enumerate(_SEPARABLE):
        depthwise = _convolution(channels, channels, 3, stride, groups=channels)
        body.add_module(f"block{number}", nn.Sequential(*depthwise, *_convolution(channels, round(full * width), 1, 1)))
        channels = round(full * width)
    return body


def _convolution(channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class BatchNormInception(nn.Module):
    """Inception with batch-norm (Ioffe and Szegedy 2015) without its classifier: 1024 channels, stride 32.

    Its parameters have the names of the distributed weight file (`INCEPTION_FILE`). Images of 112 px do not fit: where a map of
    odd side is halved, the convolution rounds up and the pooling beside it down. Multiples of 32 fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, 2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        channels = 192
        for name in _INCEPTION:
            channels = self._add_block(name, channels)

    def _add(self, name: str, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.add_module(name, layer)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(out))

    def _add_block(self, name: str, channels: int) -> int:
        single, (reduced, out), (narrow, wide), _, projected = _INCEPTION[name]
        stride = 1 if single else 2
        if single:
            self._add(f"{name}_1x1", channels, single, 1)
        self._add(f"{name}_3x3_reduce", channels, reduced, 1)
        self._add(f"{name}_3x3", reduced, out, 3, stride)
        self._add(f"{name}_double_3x3_reduce", channels, narrow, 1)
        self._add(f"{name}_double_3x3_1", narrow, wide, 3)
        self._add(f"{name}_double_3x3_2", wide, wide, 3, stride)
        if projected:
            self._add(f"{name}_pool_proj", channels, projected, 1)
        self.add_module(name, nn.Identity())  # a place to take the block's output from
        return single + out + wide + (projected or channels)

    def _unit(self, name: str, x: Tensor) -> Tensor:
        return torch.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))

    def _block(self, name: str, x: Tensor) -> Tensor:
        single, _, _, pooling, projected = _INCEPTION[name]
        branches = [self._unit(f"{name}_1x1", x)] if single else []
        branches.append(self._unit(f"{name}_3x3", self._unit(f"{name}_3x3_reduce", x)))
        double = self._unit(f"{name}_double_3x3_1", self._unit(f"{name}_double_3x3_reduce", x))
        branches.append(self._unit(f"{name}_double_3x3_2", double))
        pooled = _pooled(x) if not single else _same_size(x, pooling)
        branches.append(self._unit(f"{name}_pool_proj", pooled) if projected else pooled)
        joined: Tensor = self.get_submodule(name)(torch.cat(branches, 1))
        return joined

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W], blue first -> [B, 1024, H / 32, W / 32]."""
        x = _pooled(self._unit("conv1_7x7_s2", images))
        x = _pooled(self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", x)))
        for name in _INCEPTION:
            x = self._block(name, x)
        return x


def _pooled(x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)


def _same_size(x: Tensor, pooling: str) -> Tensor:
    return nn.functional.avg_pool2d(x, 3, 1, 1) if pooling == "average" else nn.functional.max_pool2d(x, 3, 1, 1)


def _mobilenet(name: str) -> PaperBackbone:
    return PaperBackbone(name, mobilenet_v1(WIDTHS[name]), [f"block{n}" for n in range(len(_SEPARABLE))], Preprocess())


def _inception(name: str) -> PaperBackbone:
    # The released code normalises red, green, blue by (0.502, 0.4588, 0.4078) and turns the channels round afterwards.
    preprocess = Preprocess((0.4078, 0.4588, 0.502), (0.0039,) * 3, bgr=True)
    return PaperBackbone(name, BatchNormInception(), list(_INCEPTION), preprocess)


PAPERS: dict[str, Callable[[str], PaperBackbone]] = {**dict.fromkeys(WIDTHS, _mobilenet), "bninception": _inception}
"""Makers by name: random weights, not probed yet."""

"""The second way from a picture to an embedding, which shares no code with `EmbeddingNet`: an imported network has to agree.

The body is the library's own model, the transform the library's own (or plain NumPy), the head plain NumPy in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import timm.data
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pictures

from dmkd.models.from_torchvision import published_name

Floats = NDArray[np.float64]
Pixels = Callable[[Image.Image], Tensor]
"""A picture -> [1, 3, R, R] as the published weights want it."""
Places = Callable[[Tensor], Tensor]
"""[1, 3, R, R] -> [N, C]: the last feature map, a row a place."""

TOLERANCE = 5e-5
"""Largest difference of a coordinate (of embeddings of length 1) that passes."""


@dataclass(frozen=True)
class Head:
    """What follows the last feature map: pooling, and a linear layer unless `weight` is None."""

    pooling: str
    exponent: float = 3.0
    weight: Tensor | None = None
    """[D, C]"""
    bias: Tensor | None = None
    """[D]"""

    def embed(self, places: Floats) -> Floats:
        """[N, C] -> [D] of length 1. After GeM, the linear layer sees a vector of length 1."""
        pooled = POOLED[self.pooling](places, self.exponent)
        if self.weight is None:
            return _unit(pooled)
        seen = _unit(pooled) if self.pooling == "gem" else pooled
        bias = 0 if self.bias is None else self.bias.double().numpy()
        return _unit(self.weight.double().numpy() @ seen + bias)


POOLED: dict[str, Callable[[Floats, float], Floats]] = {
    "average": lambda places, _: places.mean(0),
    "max": lambda places, _: places.max(0),
    "average+max": lambda places, _: places.mean(0) + places.max(0),
    "gem": lambda places, p: np.mean(np.maximum(places, 1e-6) ** p, 0) ** (1 / p),
}


def _unit(x: Floats) -> Floats:
    unit: Floats = x / max(np.sqrt(np.square(x).sum()), 1e-6)
    return unit


@dataclass(frozen=True)
class Peer:
    """An independent forward pass."""

    what: str
    """What it is, for the line that reports it."""
    pixels: Pixels
    places: Places
    head: Head

    def embed(self, picture: Image.Image) -> Floats:
        """[D] of length 1."""
        with torch.no_grad():
            return self.head.embed(self.places(self.pixels(picture)).double().numpy())


@dataclass(frozen=True)
class Parity:
    """How two embeddings of one picture differ."""

    largest: float
    """Largest absolute difference of a coordinate."""
    cosine: float

    @property
    def holds(self) -> bool:
        """Whether it is within `TOLERANCE` (what is not a number is not)."""
        return self.largest <= TOLERANCE


def compare(own: Tensor, other: Floats) -> Parity:
    """Parity of two embeddings [D], both brought to length 1 (untrained networks may give a vanishing one)."""
    ours, theirs = (x / np.sqrt(np.square(x).sum()) for x in (own.double().numpy(), other))
    return Parity(float(np.abs(ours - theirs).max()), float(ours @ theirs))


def plain_pixels(
    size: int, resize: int, mean: Sequence[float], std: Sequence[float], *, interpolation: str, scale: float, bgr: bool
) -> Pixels:
    """Resize the short side, cut out the centre, and normalise pixels 0 .. `scale` in NumPy (blue first where `bgr`)."""

    def prepare(picture: Image.Image) -> Tensor:
        resized = pictures.resize(picture, [resize], InterpolationMode(interpolation))
        values = np.asarray(pictures.center_crop(resized, [size, size]), dtype=np.float64) * (scale / 255)
        normalised = ((values[..., ::-1] if bgr else values) - np.array(mean)) / np.array(std)
        return torch.from_numpy(normalised.transpose(2, 0, 1)[None].astype(np.float32))

    return prepare


_TAPS: dict[str, tuple[str, bool]] = {
    "DenseNet": ("features", False),
    "MNASNet": ("layers", False),
    "MaxVit": ("classifier.0", True),
    "MobileNetV2": ("features", False),
    "ShuffleNetV2": ("conv5", False),
    "SqueezeNet": ("features", False),
    "SwinTransformer": ("norm", False),
    "VisionTransformer": ("encoder", False),
}
"""Where a torchvision model shows its last feature map: a module, and whether at its input. Others: the input of `avgpool`."""


def torchvision_places(name: str, state: Mapping[str, Tensor]) -> Places:
    """The last feature map of torchvision's own whole model with the weights `state` (heads may lack)."""
    options = (
        {"transform_input": True, "aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    )
    model: Any = torchvision.models.get_model(published_name(name), weights=None, **options)
    kind = type(model).__name__
    _fill(model, state)
    if name.endswith("_v1"):
        _stride_first(model)
    module, at_input = _TAPS.get(kind, ("avgpool", True))
    if name.endswith("_unpooled"):
        module, at_input = f"features.{len(model.features) - 1}", True

    def places(images: Tensor) -> Tensor:
        seen = _tapped(model, module, at_input, images)
        if kind == "VisionTransformer":
            return seen[0, 1:]
        if kind == "SwinTransformer":
            return seen[0].flatten(0, 1)
        return (seen.relu() if kind == "DenseNet" else seen)[0].flatten(1).T

    return places


def _fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    model.load_state_dict(
        {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}, strict=False
    )
    model.eval()


def _stride_first(model: nn.Module) -> None:
    for block in model.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck) and block.conv2.stride == (2, 2):
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def _tapped(model: nn.Module, module: str, at_input: bool, images: Tensor) -> Tensor:
    caught: list[Tensor] = []
    hook = model.get_submodule(module).register_forward_hook(
        lambda _module, inputs, output: caught.append((inputs[0] if at_input else output).clone())
    )
    try:
        model(images)
    finally:
        hook.remove()
    return caught[0]


def timm_places(name: str, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> Places:
    """The last feature map (or patch tokens) of timm's own model with the weights `state`."""
    model: Any = timm.create_model(name.removeprefix("timm/"), num_classes=0, **options)
    _fill(model, state)

    def places(images: Tensor) -> Tensor:
        seen: Tensor = model.forward_features(images)[0]
        if seen.ndim == 2:
            return seen[int(getattr(model, "num_prefix_tokens", 0)) :]
        channels_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
        return seen.flatten(0, 1) if channels_last else seen.flatten(1).T

    return places


def sequence_places(modules: Sequence[nn.Module], state: Mapping[str, Tensor]) -> Places:
    """The output of `modules` (on any device) in a row, with the weights `state`, which are named by position."""
    body = nn.Sequential(*modules)
    body.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, strict=False, assign=True)
    body.eval()
    return lambda images: body(images)[0].flatten(1).T


def body_places(body: Callable[[Tensor], Tensor]) -> Places:
    """The feature map that dmkd's own backbone gives: for bodies of which no library has a second implementation."""
    return lambda images: body(images)[0].flatten(1).T

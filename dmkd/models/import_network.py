"""From a published state_dict to an `EmbeddingNet`, and to the peer that checks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dmkd.errors import ConfigError, WeightsError
from dmkd.models import Network
from dmkd.models.backbones import build_backbone
from dmkd.models.embedder import EmbeddingNet
from dmkd.models.from_timm import TimmBackbone
from dmkd.models.from_torchvision import published_name, torchvision_names
from dmkd.models.import_files import Published
from dmkd.models.import_parity import Head, Peer, Pixels, Places, body_places, timm_places, torchvision_places
from dmkd.models.pooling import POOLINGS
from dmkd.models.preprocess import Preprocess
from dmkd.models.trunk import Backbone
from dmkd.models.weights import fit_state, load_weights, without_classifier

CLASSIFIERS = ("fc.", "classifier.", "last_linear.", "head.", "head_dist.", "logits.", "AuxLogits.", "aux1.", "aux2.")
"""Beginnings of names that belong to a classifier, where the backbone itself has none of that name: left out."""


@dataclass(frozen=True)
class Said:
    """What the user says about a file; empty (or 0): as its format says."""

    backbone: str = ""
    pooling: str = ""
    dim: int = 0
    """Refuse another dimension than this."""
    embedding: str = ""
    """Name in the file of the linear layer that gives the embedding."""
    prefix: str = ""
    """What stands in front of the backbone's names in the file."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    bgr: bool = False
    resolution: int = 0
    crop_ratio: float = 0.0
    interpolation: str = ""
    whitening: str = ""
    """Name of one of the whitenings that a landmark file carries (meta.Lw)."""


@dataclass(frozen=True)
class Taken:
    """A network taken in, and the way to check it."""

    net: EmbeddingNet
    crop_ratio: float
    peer: Peer
    note: str = ""
    """What a reader should know of it."""


@dataclass(frozen=True)
class Look:
    """How pictures have to look before the first layer, said twice: for the network, and for its check."""

    preprocess: Preprocess
    crop_ratio: float
    pixels: Pixels


def take(file: Published | None, said: Said, name: str, size: int, look: Callable[[Preprocess], Look]) -> Taken:
    """Fill the backbone `name` and its head from `file` (or with its published weights) and give it its peer."""
    backbone = build_backbone(name, size)
    pooling = said.pooling or "average"
    if pooling not in (*POOLINGS, "gem"):
        raise ConfigError(f"--pooling {pooling!r}: wanted one of {', '.join((*POOLINGS, 'gem'))}")
    head = Head(pooling)
    if file is None:
        seen = look(load_weights(backbone, "imagenet"))
        state: Mapping[str, Tensor] = backbone.body.state_dict()
    else:
        seen = look(backbone.preprocess)
        state, head = _split(file, said, pooling, backbone)
        fit_state(backbone.body, state, str(file.path))
    net = filled(
        Network(backbone=name, weights="none", pooling=pooling, dim=0, resolution=size), backbone, seen.preprocess, head, said
    )
    what, places = _places(backbone, state)
    return Taken(net, seen.crop_ratio, Peer(what, seen.pixels, places, head))


def _split(file: Published, said: Said, pooling: str, backbone: Backbone) -> tuple[dict[str, Tensor], Head]:
    """The backbone's weights under its own names, and the head."""
    state = {name.removeprefix(said.prefix): tensor for name, tensor in file.state.items()}
    weight, bias = embedding_layer(state, said.embedding, file.path) if said.embedding else (None, None)
    exponent = state.pop("pool.p", None) if pooling == "gem" else None
    own = backbone.body.state_dict()
    foreign = (*backbone.classifier, *(prefix for prefix in CLASSIFIERS if not any(key.startswith(prefix) for key in own)))
    kept = {name: _squeezed(tensor, own.get(name)) for name, tensor in without_classifier(state, foreign).items()}
    return kept, Head(pooling, 3.0 if exponent is None else gem_exponent(exponent, file.path), weight, bias)


def gem_exponent(exponent: Tensor, path: Path) -> float:
    """The number in pool.p. Raises `WeightsError` unless it is one, positive and finite."""
    if exponent.numel() != 1:
        raise WeightsError(f"{path}: pool.p has {exponent.numel()} exponents, wanted one for all channels")
    value = float(exponent)
    if not 0 < value < math.inf:
        raise WeightsError(f"{path}: pool.p is {value:g}, wanted a positive number; get the file again")
    return value


def _squeezed(tensor: Tensor, own: Tensor | None) -> Tensor:
    """Ports of Caffe networks keep batch-norm vectors as [1, C]."""
    same = own is not None and own.shape != tensor.shape and own.numel() == tensor.numel() and own.ndim == 1
    return tensor.flatten() if same else tensor


def embedding_layer(state: dict[str, Tensor], name: str, path: Path) -> tuple[Tensor, Tensor | None]:
    """Take the linear layer `name` out of `state`: weight [D, C], bias [D] or None. Raises `WeightsError`."""
    weight, bias = state.pop(f"{name}.weight", None), state.pop(f"{name}.bias", None)
    if weight is None:
        linear = [key.removesuffix(".weight") for key, tensor in state.items() if key.endswith(".weight") and tensor.ndim == 2]
        raise WeightsError(f"{path}: no layer {name!r}; its linear layers are {', '.join(linear) or 'none'}")
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise WeightsError(f"{path}: {name}.weight has shape {tuple(weight.shape)}, wanted a linear layer's [D, C]")
    return weight, bias


def filled(network: Network, backbone: Backbone, preprocess: Preprocess, head: Head, said: Said) -> EmbeddingNet:
    """An `EmbeddingNet` of a filled backbone and the weights of `head`. Raises `WeightsError` where they do not fit."""
    dim = 0 if head.weight is None else head.weight.shape[0]
    if head.weight is not None and head.weight.shape[1] != backbone.channels:
        raise WeightsError(
            f"the embedding layer takes {head.weight.shape[1]} channels, {backbone.name} gives {backbone.channels}: "
            "name another layer or backbone"
        )
    if said.dim and said.dim != (dim or backbone.channels):
        raise ConfigError(f"--dim {said.dim}: the file gives embeddings of {dim or backbone.channels} dimensions")
    net = EmbeddingNet(replace(network, dim=dim), backbone, preprocess)
    state = {f"backbone.body.{name}": tensor for name, tensor in backbone.body.state_dict().items()}
    if head.pooling == "gem":
        state["head.pool.p"] = torch.full((1,), head.exponent)
    if head.weight is not None:
        state |= {"head.linear.weight": head.weight, "head.linear.bias": _bias(head.bias, dim)}
    net.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()})
    return net


def _bias(bias: Tensor | None, dim: int) -> Tensor:
    return torch.zeros(dim) if bias is None else bias


def _places(backbone: Backbone, state: Mapping[str, Tensor]) -> tuple[str, Places]:
    name = backbone.name
    if isinstance(backbone, TimmBackbone):
        return f"timm's own {name.removeprefix('timm/')}", timm_places(name, backbone.options, state)
    if name in torchvision_names():
        return f"torchvision's own {published_name(name)}", torchvision_places(name, state)

    def body(images: Tensor) -> Tensor:
        mode = backbone.training
        try:
            return backbone.eval()(images)[0]  # type: ignore[no-any-return]
        finally:
            backbone.train(mode)

    return f"own transform and head (no second implementation of {name})", body_places(body)

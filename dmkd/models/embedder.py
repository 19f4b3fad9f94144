"""EmbeddingNet: images -> Features."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmkd.errors import ConfigError
from dmkd.models import Network
from dmkd.models.backbones import build_backbone
from dmkd.models.pooling import exactly, full_precision, make_pooling, unit_length
from dmkd.models.preprocess import Normalize, Preprocess
from dmkd.models.trunk import Backbone
from dmkd.models.weights import fit_state, load_weights
from dmkd.space import nearest

__all__ = ["EmbeddingNet", "Features", "Head", "Preprocess", "assemble", "build_network"]


@dataclass(frozen=True)
class Features:
    """What a network gives for B images."""

    embedding: Tensor
    """[B, D], unit length."""
    pooled: Tensor
    """[B, C]; [B, D] where `Network.projection` is "conv": what the embedding is the direction of."""
    feature_map: Tensor
    """[B, C, h, w]"""
    stages: Mapping[str, Tensor] = field(default_factory=dict)
    """Only the stages asked for."""


class Projection(nn.Conv2d):
    """[B, C, h, w] -> [B, D, h, w]: a 1x1 convolution without bias, then ReLU (AML, spec 5.6)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__(channels, dim, kernel_size=1, bias=False)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Not negative, and so is every embedding made of it."""
        return torch.relu(super().forward(feature_map))


class Head(nn.Module):
    """Pooling, linear embedding (with bias; it starts as `init` says, see `Network.head_init`), L2. `dim` 0: no linear layer.

    After GeM the linear layer sees vectors of unit length, as in RAML (spec 7) and AML (spec 5.5). With the projection "conv"
    there is no linear layer; a 1x1 convolution and ReLU stand before the pooling, as in AML's students.
    """

    def __init__(self, channels: int, pooling: str, dim: int, projection: str = "linear", init: str = "") -> None:
        super().__init__()
        convolution = projection == "conv"
        if convolution and not dim:
            raise ConfigError(
                "student.projection is conv with student.dim 0: give the dimension to project to (AML: 512 or 2048)"
            )
        self.project: nn.Module = Projection(channels, dim) if convolution else nn.Identity()
        self.pool = make_pooling(pooling)
        self.linear: nn.Module = nn.Linear(channels, dim) if dim and not convolution else nn.Identity()
        if init == "kaiming":
            _start_by_fan_out(self.linear, self.project)
        self.dim = dim or channels
        self._unit_pooled = pooling == "gem"
        self.detached = False
        """Whether no gradient goes on from here into the backbone (see `Method.detached_embedding`)."""

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] -> embedding [B, D] of unit length, pooled (see `Features.pooled`; not normalised)."""
        if self.detached:
            feature_map = feature_map.detach()
        pooled = full_precision(self.pool(self.project(feature_map)))
        embedding = exactly(self.linear, unit_length(pooled) if self._unit_pooled else pooled)
        return unit_length(embedding), pooled


def _start_by_fan_out(*layers: nn.Module) -> None:
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class EmbeddingNet(nn.Module):
    """RGB images in [0, 1], float32 [B, 3, H, W] -> `Features`. Normalises them itself, by `preprocess`.

    With `network.frozen_batchnorm`, `train()` leaves every BatchNorm in evaluation mode: running statistics stay as they are,
    scale and shift still train. `backbone` and `head` (pooling exponent and projection) share out the parameters.
    """

    def __init__(self, network: Network, backbone: Backbone, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.preprocess = network_preprocess(network, preprocess)
        self.normalize = Normalize(preprocess)
        self.backbone = backbone
        self.head = Head(backbone.channels, network.pooling, network.dim, network.projection, network.head_init)
        self.freeze()
        self.train()

    def forward(self, images: Tensor, stages: tuple[str, ...] = ()) -> Features:
        """`Features` of `images`, with the named `stages`. Raises `ConfigError` for an unknown stage."""
        feature_map, maps = self.backbone(self.normalize(images), stages)
        return self.features(feature_map, maps)

    def features(self, feature_map: Tensor, maps: Mapping[str, Tensor]) -> Features:
        """What the head makes of the backbone's last map [B, C, h, w], with the maps of stages beside it."""
        embedding, pooled = self.head(feature_map)
        return Features(embedding, pooled, feature_map, maps)

    def freeze(self) -> None:
        """Every parameter trains but those of `network.frozen`. Raises `ConfigError` for a module that the backbone has not."""
        self.requires_grad_(True)
        modules = dict(self.backbone.body.named_modules())
        for name in self.network.frozen:
            if name not in modules or not name:
                found = nearest(name, [known for known in modules if known])
                raise ConfigError(f"student.frozen: backbone {self.backbone.name!r} has no module {name!r}: {found}")
            modules[name].requires_grad_(False)

    def train(self, mode: bool = True) -> EmbeddingNet:
        """Training mode, but for frozen batch-norm (that of the whole backbone, or of its frozen modules)."""
        super().train(mode)
        still = (
            [self.backbone]
            if self.network.frozen_batchnorm
            else [self.backbone.body.get_submodule(x) for x in self.network.frozen]
        )
        for module in (inner for root in still for inner in root.modules()):
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def sizes(self, stages: tuple[str, ...] = ()) -> tuple[int, int, dict[str, int]]:
        """Embedding dimension D, channels C of the feature map, channels of each stage. Raises `ConfigError` as `forward`."""
        self.backbone.check_stages(stages)
        return self.head.dim, self.backbone.channels, {stage: self.backbone.stage_channels[stage] for stage in stages}

    def clone(self, **changes: Any) -> EmbeddingNet:
        """An independent copy in training mode, same weights and preprocessing, trainable but for `network.frozen`.

        `changes` are fields of `network` that leave the parameters as they are: `resolution`, `interpolation`,
        `frozen_batchnorm`, `frozen`.
        """
        twin = copy.deepcopy(self)
        twin.network = dataclasses.replace(self.network, **changes)
        twin.preprocess = network_preprocess(twin.network, self.preprocess)
        twin.freeze()
        return twin.train()


def network_preprocess(network: Network, preprocess: Preprocess) -> Preprocess:
    """`preprocess` with the filter that `network` asks for, if it does."""
    return dataclasses.replace(preprocess, interpolation=network.interpolation or preprocess.interpolation)


def assemble(network: Network, preprocess: Preprocess | None = None) -> EmbeddingNet:
    """An `EmbeddingNet` with random weights whatever `network.weights` says. Raises `ConfigError`, `ShapeError`."""
    backbone = build_backbone(network.backbone, network.resolution)
    return EmbeddingNet(network, backbone, preprocess or backbone.preprocess)


def build_network(network: Network, *, dim_override: int | None = None) -> EmbeddingNet:
    """The network of a configuration, with its weights; `dim_override` replaces `network.dim`.

    With `network.checkpoint` it is the network of that folder, which must be of the same backbone, pooling and dimension.
    Raises `ConfigError` (unknown name), `ShapeError` (resolution), `WeightsError` (weights), `CheckpointError`.
    """
    if dim_override is not None:
        network = dataclasses.replace(network, dim=dim_override)
    if network.checkpoint:
        return _from_checkpoint(network)
    backbone = build_backbone(network.backbone, network.resolution)
    preprocess = load_weights(backbone, network.weights)
    return EmbeddingNet(network, backbone, preprocess)


def _from_checkpoint(network: Network) -> EmbeddingNet:
    from dmkd.models.saved import load_model

    if network.checkpoint == "teacher":
        raise ConfigError("checkpoint: teacher means the run's own teacher; outside a run give the folder of a checkpoint")
    saved, _ = load_model(network.checkpoint)
    for key in ("backbone", "pooling", "dim", "projection"):
        found, wanted = getattr(saved.network, key), getattr(network, key)
        if found != wanted:
            raise ConfigError(f"{network.checkpoint} holds a network with {key} {found!r}, wanted {wanted!r}: set {key}={found}")
    net = assemble(network, saved.preprocess)
    fit_state(net, saved.state_dict(), network.checkpoint)
    return net

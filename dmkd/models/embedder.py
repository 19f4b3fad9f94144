"""EmbeddingNet: images -> Features."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmkd.errors import ConfigError
from dmkd.models import Network
from dmkd.models.backbones import build_backbone
from dmkd.models.pooling import full_precision, make_pooling, unit_length
from dmkd.models.preprocess import Normalize, Preprocess
from dmkd.models.trunk import Backbone
from dmkd.models.weights import fit_state, load_weights

__all__ = ["EmbeddingNet", "Features", "Head", "Preprocess", "assemble", "build_network"]


@dataclass(frozen=True)
class Features:
    """What a network gives for B images."""

    embedding: Tensor
    """[B, D], unit length."""
    pooled: Tensor
    """[B, C]"""
    feature_map: Tensor
    """[B, C, h, w]"""
    stages: Mapping[str, Tensor] = field(default_factory=dict)
    """Only the stages asked for."""


class Head(nn.Module):
    """Pooling, linear embedding (with bias, PyTorch's default initialisation), L2. `dim` 0: no linear layer.

    After GeM the linear layer sees vectors of unit length, as in RAML (spec 7) and AML (spec 5.5).
    """

    def __init__(self, channels: int, pooling: str, dim: int) -> None:
        super().__init__()
        self.pool = make_pooling(pooling)
        self.linear: nn.Module = nn.Linear(channels, dim) if dim else nn.Identity()
        self.dim = dim or channels
        self._unit_pooled = pooling == "gem"

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] -> embedding [B, D] of unit length, pooled [B, C] (not normalised)."""
        pooled = full_precision(self.pool(feature_map))
        embedding = self.linear(unit_length(pooled) if self._unit_pooled else pooled)
        return unit_length(embedding), pooled


class EmbeddingNet(nn.Module):
    """RGB images in [0, 1], float32 [B, 3, H, W] -> `Features`. Normalises them itself, by `preprocess`.

    With `network.frozen_batchnorm`, `train()` leaves every BatchNorm in evaluation mode: running statistics stay as they are,
    scale and shift still train. `backbone` and `head` (pooling exponent and linear layer) share out the parameters.
    """

    def __init__(self, network: Network, backbone: Backbone, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.normalize = Normalize(preprocess)
        self.backbone = backbone
        self.head = Head(backbone.channels, network.pooling, network.dim)
        self.train()

    def forward(self, images: Tensor, stages: tuple[str, ...] = ()) -> Features:
        """`Features` of `images`, with the named `stages`. Raises `ConfigError` for an unknown stage."""
        feature_map, maps = self.backbone(self.normalize(images), stages)
        embedding, pooled = self.head(feature_map)
        return Features(embedding, pooled, feature_map, maps)

    def train(self, mode: bool = True) -> EmbeddingNet:
        """Training mode, but for frozen batch-norm."""
        super().train(mode)
        if self.network.frozen_batchnorm:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def sizes(self, stages: tuple[str, ...] = ()) -> tuple[int, int, dict[str, int]]:
        """Embedding dimension D, channels C of the feature map, channels of each stage. Raises `ConfigError` as `forward`."""
        self.backbone.check_stages(stages)
        return self.head.dim, self.backbone.channels, {stage: self.backbone.stage_channels[stage] for stage in stages}

    def clone(self, **changes: Any) -> EmbeddingNet:
        """An independent copy in training mode, same weights and preprocessing, every parameter trainable.

        `changes` are fields of `network` that leave the parameters as they are: `resolution`, `frozen_batchnorm`.
        """
        twin = copy.deepcopy(self)
        twin.network = dataclasses.replace(self.network, **changes)
        twin.requires_grad_(True)
        return twin.train()


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
    for key in ("backbone", "pooling", "dim"):
        found, wanted = getattr(saved.network, key), getattr(network, key)
        if found != wanted:
            raise ConfigError(f"{network.checkpoint} holds a network with {key} {found!r}, wanted {wanted!r}: set {key}={found}")
    net = assemble(network, saved.preprocess)
    fit_state(net, saved.state_dict(), network.checkpoint)
    return net

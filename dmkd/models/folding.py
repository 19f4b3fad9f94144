"""Batch-norm folded into the convolutions before it, for the forward pass of a network that is not trained (a teacher)."""

from __future__ import annotations

import copy
import warnings
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dmkd.models.embedder import EmbeddingNet, Features
from dmkd.models.trunk import Backbone

TOLERANCE = {"cpu": 1e-4}
"""Largest relative difference of the pooled features of a folded network, by device; elsewhere `ROUNDED`."""
ROUNDED = 1e-2
"""On a GPU, where convolutions may round their input to 10 bits (TF32)."""

Pair = tuple[str, str]
"""Names of a convolution and of the batch-norm after it."""


class Folded:
    """The forward pass of a network in evaluation mode, its batch-norms folded when it is first called.

    The network itself stays as it is; after it has changed, make another `Folded`. Where it cannot be folded it runs as it is.
    """

    def __init__(self, network: EmbeddingNet) -> None:
        self.network = network
        self._made: dict[tuple[str, ...], EmbeddingNet] = {}

    def __call__(self, images: Tensor, stages: tuple[str, ...] = ()) -> Features:
        """`Features` of images [B, 3, H, W] with the named stages, without graph."""
        with torch.no_grad():
            if stages not in self._made:
                self._made[stages] = folded(self.network, stages)
            features: Features = self._made[stages](images, stages=stages)
            return features


def folded(network: EmbeddingNet, stages: tuple[str, ...] = ()) -> EmbeddingNet:
    """A copy of `network` (in evaluation mode) with folded batch-norms, whose `stages` are those of the network.

    The network itself where there is nothing to fold, or, with a warning, where the copy does not give what the network gives.
    """
    pairs = foldable(network.backbone, stages)
    if not pairs:
        return network
    twin = copy.deepcopy(network)
    for convolution, norm in pairs:
        first, second = (twin.backbone.get_submodule(name) for name in (convolution, norm))
        twin.backbone.set_submodule(convolution, fuse_conv_bn_eval(first, second))  # type: ignore[type-var, arg-type]
        # timm's batch-norms have their activation in them.
        twin.backbone.set_submodule(norm, nn.Sequential(*second.children()))
    apart, allowed = _apart(network, twin), TOLERANCE.get(next(network.parameters()).device.type, ROUNDED)
    if apart <= allowed:
        return twin
    warnings.warn(
        f"{network.backbone.name}: with folded batch-norms its features are {apart:.2g} of their length apart, more than "
        f"{allowed:g}; it runs without folding",
        stacklevel=2,
    )
    return network


def foldable(backbone: Backbone, stages: tuple[str, ...] = ()) -> tuple[Pair, ...]:
    """The pairs of `backbone` where a batch-norm in evaluation mode is all that sees what a convolution gives.

    None where torch.fx cannot trace the backbone. A convolution that is one of `stages` is seen from outside.
    """
    seen = {f"body.{backbone.place(stage)[0]}" for stage in stages}
    try:
        nodes = list(_Tracer().trace(backbone).nodes)
    except Exception:  # whatever a network's own code makes of symbols
        return ()
    modules, calls = dict(backbone.named_modules()), Counter(node.target for node in nodes)
    joined = [
        (node.args[0], node)
        for node in nodes
        if _calls(node, modules, _BatchNorm) and len(node.args) == 1 and _calls(node.args[0], modules, nn.Conv2d)
    ]
    return tuple(
        (str(first.target), str(second.target))
        for first, second in joined
        if len(first.users) == 1
        and calls[first.target] == calls[second.target] == 1
        and first.target not in seen
        and _still(modules[str(second.target)])
    )


class _Tracer(fx.Tracer):
    traced_func_name = "trunk"

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, (nn.Conv2d, _BatchNorm)) or super().is_leaf_module(module, qualified_name)


def _calls(node: object, modules: dict[str, nn.Module], kind: type[nn.Module]) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_module" and isinstance(modules[str(node.target)], kind)


def _still(norm: nn.Module) -> bool:
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None and not norm.training


def _apart(network: EmbeddingNet, twin: EmbeddingNet) -> float:
    """Distance of the pooled features of noise, relative to their length."""
    side = network.network.resolution
    noise = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(next(network.parameters()).device)
    with torch.no_grad(), torch.autocast(noise.device.type, enabled=False):
        wanted, found = (net(noise).pooled for net in (network, twin))
    return float((found - wanted).norm() / wanted.norm())

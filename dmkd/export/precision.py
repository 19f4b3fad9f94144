"""Smaller numbers: weights as float16, or as int8 with a scale an output channel. What is stored, and what computes with it.

fp16: the backbone's weights are float16 and it computes in float16; normalisation, pooling and embedding stay in float32.
int8: weight matrices are stored as round(w / scale) with scale = max|w| / 127 over each output channel, and multiplied out before
use; activations stay float32. (ONNX has its own int8, with quantised activations: `dmkd.export.onnx_program`.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dmkd.errors import ConfigError
from dmkd.models.embedder import EmbeddingNet
from dmkd.models.saved import SCALE, multiplied_out
from dmkd.space import nearest

PRECISIONS = ("fp32", "fp16", "int8")


def check_precision(precision: str) -> None:
    """Raise `ConfigError` for a precision that there is not."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: {nearest(precision, PRECISIONS)}")


def stored(net: EmbeddingNet, precision: str) -> dict[str, Tensor]:
    """The tensors of weights.safetensors: the network's own, rounded. Raises `ConfigError` where they leave float16's range."""
    check_precision(precision)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    if precision == "fp16":
        state = {name: tensor.half() if _halved(name, tensor) else tensor for name, tensor in state.items()}
        lost = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
        if lost:
            raise ConfigError(f"precision fp16: {lost[0]} holds numbers beyond 65504, float16's largest: take fp32 or int8")
    if precision == "int8":
        matrices = [name for name, tensor in state.items() if tensor.is_floating_point() and tensor.ndim >= 2]
        for name in matrices:
            state[name], state[name + SCALE] = _quantised(state[name])
    # A graph takes its weights in the order of their names: files come in orders of their own.
    return dict(sorted(state.items()))


def _halved(name: str, tensor: Tensor) -> bool:
    return name.startswith("backbone.") and tensor.is_floating_point()


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of `weight` [C, ...] and its scale [C, 1, ...]."""
    largest = weight.float().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    scale = largest.clamp(min=torch.finfo(torch.float32).tiny * 127) / 127
    return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale


class Embeds(nn.Module):
    """A network's embeddings alone, in the precision that is exported: [B, 3, H, W] in [0, 1] -> [B, D] float32."""

    def __init__(self, net: EmbeddingNet, precision: str = "fp32") -> None:
        super().__init__()
        check_precision(precision)
        self.net, self.precision = net, precision

    def forward(self, images: Tensor) -> Tensor:
        """Normalise in float32, the backbone in its own precision, pool and embed in float32."""
        images = self.net.normalize(images)
        if self.precision == "fp16":
            images = images.half()
        feature_map, _ = self.net.backbone(images, ())
        embedding: Tensor = self.net.head(feature_map.float())[0]
        return embedding


class Functional(nn.Module):
    """`Embeds` without weights of its own: (weights as `stored`, images) -> embeddings. Its program holds no weights."""

    def __init__(self, model: Embeds) -> None:
        super().__init__()
        object.__setattr__(self, "_model", model)  # not a submodule: what is exported holds none of its tensors

    def forward(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D]."""
        model: Embeds = self._model  # type: ignore[assignment]
        state = {f"net.{name}": tensor for name, tensor in multiplied_out(weights).items()}
        embedding: Tensor = torch.func.functional_call(model, state, (images,))
        return embedding


def rounded(net: EmbeddingNet, precision: str) -> Embeds:
    """The network as its stored weights make it, computing in `precision`: what the exported files are compared with."""
    model = Embeds(net.clone(), precision).eval()
    if precision == "fp16":
        model.net.backbone.half()
    model.net.load_state_dict(multiplied_out(stored(net, precision)), strict=True)
    return model

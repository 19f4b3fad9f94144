"""What every backbone is here: a classifier's body without its classifier, that gives maps."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dmkd.errors import ConfigError, ShapeError
from dmkd.models.preprocess import Preprocess
from dmkd.space import nearest

M = TypeVar("M", bound=nn.Module)


class Backbone(nn.Module):
    """Normalised images [B, 3, H, W] -> the last feature map [B, C, h, w] and the stages asked for.

    Token networks give their patch tokens as a map (class and register tokens are left out); channels always come second.
    The parameters of `body` keep the names that their library gave them, so published weight files load as they are.
    """

    def __init__(self, name: str, body: nn.Module, preprocess: Preprocess, classifier: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.preprocess = preprocess
        """Normalisation of the weights that are published under this name."""
        self.classifier = classifier
        """Prefixes of parameters that a published file has and this network does without."""
        self.options: dict[str, Any] = {}
        """Arguments that `body` was made with, beside its name."""
        self.channels = 0
        self.stage_channels: dict[str, int] = {}
        """Channels of the stages that may be asked for, by the dotted name of their module in `body`.

        These are the blocks. Any other module that gives a map of the whole image may be asked for as well ("layer1.2.conv2"),
        and stands here from then on.
        """
        self.resolution = 0
        """Side of the images that `probe` tried, pixels."""
        self.channels_come_last = False
        self.prefix_tokens = 0

    def trunk(self, images: Tensor) -> Tensor:
        """The last features as the library gives them: a map, a map with channels last, or tokens."""
        raise NotImplementedError

    def forward(self, images: Tensor, stages: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """The last feature map and the stages by name. Raises `ConfigError` for an unknown stage, naming the nearest."""
        self.check_stages(stages)
        caught: dict[str, Tensor] = {}
        last = self._run(images, stages, caught.__setitem__)
        return self.as_map(last, images), {stage: self.as_map(output, images) for stage, output in caught.items()}

    def check_stages(self, stages: Iterable[str]) -> None:
        """Raise `ConfigError` for a stage that this backbone has not, naming the nearest."""
        unknown = [stage for stage in stages if stage not in self.stage_channels]
        if not unknown:
            return
        modules = {name for name, _ in self.body.named_modules() if name}
        self.stage_channels |= self._measure(self.resolution, [stage for stage in unknown if self.place(stage)[0] in modules])[1]
        for stage in unknown:
            if stage not in self.stage_channels:
                raise ConfigError(self._refusal(stage, modules))

    def _refusal(self, stage: str, modules: Iterable[str]) -> str:
        if self.place(stage)[0] in modules:
            reason = "it gives no map of the whole image, or the layer after it overwrites what it gives"
            return (
                f"backbone {self.name!r}: stage {stage!r} cannot be handed out ({reason}); blocks: {', '.join(self.candidates())}"
            )
        return f"backbone {self.name!r} has no stage {stage!r}: {nearest(stage, self.stage_channels)}"

    def place(self, stage: str) -> tuple[str, int]:
        """The dotted name of the module that gives a stage, and which of its calls in one pass; 0: the last."""
        return stage, 0

    def _run(self, images: Tensor, stages: Iterable[str], keep: Callable[[str, Tensor], None]) -> Tensor:
        """The trunk's output; `keep(stage, output)` is called with what each stage gives."""

        def watch(stage: str) -> RemovableHandle:
            (name, wanted), calls = self.place(stage), itertools.count(1)

            def caught(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                if next(calls) == wanted or not wanted:
                    keep(stage, output)

            return self.body.get_submodule(name).register_forward_hook(caught)

        hooks = [watch(stage) for stage in stages]
        try:
            return self.trunk(images)
        finally:
            for hook in hooks:
                hook.remove()

    def as_map(self, x: Tensor, images: Tensor) -> Tensor:
        """What `trunk` (or a stage) gives of `images`, as a map [B, C, h, w]. Raises `ShapeError` where it is none."""
        if x.ndim == 3:
            return self._tokens_to_map(x, images.shape[-2], images.shape[-1])
        if x.ndim != 4:
            raise ShapeError(f"backbone {self.name!r} gives features of shape {tuple(x.shape)}: wanted a map or tokens")
        return x.permute(0, 3, 1, 2) if self.channels_come_last else x

    def _tokens_to_map(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, N, C] -> [B, C, h, w] with h : w as in the image. Inner blocks may lack the class token that the last one has."""
        for prefix in (self.prefix_tokens, *range(9)):
            count = x.shape[1] - prefix
            h = round(math.sqrt(max(0, count) * height / width))
            if h and count % h == 0 and count // h == round(h * width / height):
                return x[:, prefix:].transpose(1, 2).reshape(x.shape[0], -1, h, count // h)
        raise ShapeError(f"backbone {self.name!r}: {x.shape[1]} tokens are no map of an image of {height} x {width} px")

    def candidates(self) -> list[str]:
        """Dotted names of the modules in `body` that may serve as stages."""
        raise NotImplementedError

    def probe(self, resolution: int, candidates: Iterable[str]) -> None:
        """Learn `channels` and `stage_channels` from a forward pass without data.

        Raises `ShapeError` where the network does not take images of `resolution` px.
        """
        self.resolution = resolution
        self.channels, self.stage_channels = self._measure(resolution, candidates)

    def _measure(self, resolution: int, stages: Iterable[str]) -> tuple[int, dict[str, int]]:
        """Channels of the last map, and of those stages that give one which no later layer overwrites."""
        shadow, caught = without_data(self).eval(), _Versions()
        images = torch.zeros(1, 3, resolution, resolution, device="meta")
        try:
            with torch.no_grad():
                channels = shadow.as_map(shadow._run(images, dict.fromkeys(stages), caught.keep), images).shape[1]
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ShapeError(f"backbone {self.name!r} does not take images of {resolution} px ({reason})") from None
        found: dict[str, int] = {}
        for stage, output in caught.untouched().items():
            with contextlib.suppress(ShapeError):
                if len(output) != 1:  # windows of the image, counted as a batch
                    continue
                found[stage] = self.as_map(output, images).shape[1]
        return channels, found


class _Versions:
    """Outputs, and which of them no later layer has overwritten in place: the others are nothing to hand out."""

    def __init__(self) -> None:
        self._outputs: dict[str, tuple[Tensor, int]] = {}

    def keep(self, stage: str, output: object) -> None:
        if isinstance(output, Tensor):
            self._outputs[stage] = (output, output._version)

    def untouched(self) -> dict[str, Tensor]:
        return {stage: output for stage, (output, version) in self._outputs.items() if output._version == version}


def without_data(module: M) -> M:
    """A copy of `module` whose parameters and buffers have shapes but no memory (device "meta")."""
    memo: dict[int, Any] = {id(parameter): _shape_of(parameter) for parameter in module.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    return copy.deepcopy(module, memo)


def _shape_of(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

"""Backbones of timm, by timm's names, with or without a tag ("resnet50", "resnet50.a1_in1k").

timm, and torchvision with it, is imported where a network is made or a name asked for: it takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from dmkd.errors import ConfigError, ShapeError
from dmkd.models.preprocess import Preprocess
from dmkd.models.trunk import Backbone


@lru_cache(maxsize=1)
def timm_names() -> tuple[str, ...]:
    """Every architecture of timm, without tags."""
    import timm

    return tuple(timm.list_models())


def is_timm(name: str) -> bool:
    """Whether timm knows the architecture and, where one is named, its tag."""
    import timm

    return bool(timm.is_model(name)) and ("." not in name or bool(timm.models.is_model_pretrained(name)))


class TimmBackbone(Backbone):
    """A timm network up to what its `forward_features` gives."""

    def __init__(self, name: str, body: Any, options: dict[str, Any]) -> None:
        published = body.pretrained_cfg
        preprocess = Preprocess(tuple(published["mean"]), tuple(published["std"]))
        super().__init__(name, body, preprocess, _prefixes(published.get("classifier")))
        self.options = options
        self.channels_come_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        self.prefix_tokens = int(getattr(body, "num_prefix_tokens", 0))

    def trunk(self, images: Tensor) -> Tensor:
        """See `Backbone.trunk`."""
        features: Tensor = self.body.forward_features(images)  # type: ignore[operator]
        return features

    def candidates(self) -> list[str]:
        """The modules of timm's own `feature_info`; the body's children where it names none of its modules."""
        known = {module for module, _ in self.body.named_modules()}
        return [module for module in self._published_channels() if module in known] or [
            name for name, _ in self.body.named_children()
        ]

    def probe(self, resolution: int, candidates: Iterable[str]) -> None:
        """See `Backbone.probe`; a stage with other channels than timm says (inner blocks with channels last) is left out."""
        super().probe(resolution, candidates)
        published = self._published_channels()
        self.stage_channels = {
            stage: channels for stage, channels in self.stage_channels.items() if published.get(stage, channels) == channels
        }

    def _published_channels(self) -> dict[str, int]:
        return {str(info.get("module", "")): int(info["num_chs"]) for info in getattr(self.body, "feature_info", [])}


def build_timm(name: str, resolution: int) -> TimmBackbone:
    """The backbone `timm/NAME` with random weights, made for `resolution` where its design wants to know; not probed yet.

    Raises `ShapeError` where a network of that size cannot be made.
    """
    import timm

    short = name.removeprefix("timm/")
    for options in ({"dynamic_img_size": True}, {"img_size": resolution}, {}):
        try:
            return TimmBackbone(name, timm.create_model(short, num_classes=0, **options), options)
        except TypeError:  # most convolutional networks know neither argument
            continue
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ShapeError(f"backbone {name!r} cannot be made for images of {resolution} px ({reason})") from None
    raise ConfigError(f"backbone {name!r}: timm cannot make it")


def timm_state(backbone: TimmBackbone, overlay: dict[str, Any]) -> dict[str, Tensor]:
    """Published weights of the backbone, read (or downloaded) by timm; `overlay` changes where it looks."""
    import timm

    short = backbone.name.removeprefix("timm/")
    body: nn.Module = timm.create_model(short, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **backbone.options)
    return body.state_dict()


def _prefixes(classifier: str | tuple[str, ...] | None) -> tuple[str, ...]:
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return tuple(f"{name}." for name in names)

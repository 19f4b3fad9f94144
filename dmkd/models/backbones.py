"""Backbones by name: torchvision's ("resnet50") and timm's ("timm/tf_efficientnet_lite0"), without their classifiers."""

from __future__ import annotations

import difflib

from dmkd.errors import ConfigError
from dmkd.models.from_timm import build_timm, is_timm, timm_names
from dmkd.models.from_torchvision import build_torchvision, torchvision_names
from dmkd.models.trunk import Backbone


def backbone_names() -> tuple[str, ...]:
    """Every name that `Network.backbone` takes (timm's also with a tag, as in "timm/resnet50.a1_in1k")."""
    return (*torchvision_names(), *(f"timm/{name}" for name in timm_names()))


def check_name(name: str) -> None:
    """Raise `ConfigError`, naming the nearest known backbone, where `name` is none."""
    known = is_timm(name.removeprefix("timm/")) if name.startswith("timm/") else name in torchvision_names()
    if known:
        return
    if is_timm(name):
        raise ConfigError(f"backbone {name!r} is none of torchvision's: did you mean 'timm/{name}'?")
    near = difflib.get_close_matches(name, backbone_names(), n=3, cutoff=0.0)
    hint = ", ".join(repr(item) for item in near)
    raise ConfigError(f"unknown backbone {name!r}: nearest are {hint}; torchvision's names go bare, timm's as 'timm/NAME'")


def build_backbone(name: str, resolution: int = 224) -> Backbone:
    """The backbone `name` with random weights, its channels and stages known.

    Raises `ConfigError` for an unknown name and `ShapeError` where it does not take images of `resolution` px.
    """
    check_name(name)
    backbone = build_timm(name, resolution) if name.startswith("timm/") else build_torchvision(name)
    backbone.probe(resolution, backbone.candidates())
    return backbone

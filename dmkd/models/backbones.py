"""Backbones by name, without their classifiers: torchvision's ("resnet50"), the papers' own, timm's ("timm/convnext_atto")."""

from __future__ import annotations

import difflib
import itertools

import torch

from dmkd.errors import ConfigError, ShapeError
from dmkd.models.from_papers import PAPERS
from dmkd.models.from_timm import build_timm, is_timm, timm_names
from dmkd.models.from_torchvision import build_torchvision, torchvision_names
from dmkd.models.trunk import Backbone


def backbone_names() -> tuple[str, ...]:
    """Every name that `Network.backbone` takes (timm's also with a tag, as in "timm/resnet50.a1_in1k")."""
    return (*torchvision_names(), *PAPERS, *(f"timm/{name}" for name in timm_names()))


def check_name(name: str) -> None:
    """Raise `ConfigError`, naming the nearest known backbone, where `name` is none."""
    known = is_timm(name.removeprefix("timm/")) if name.startswith("timm/") else name in (*torchvision_names(), *PAPERS)
    if known:
        return
    if is_timm(name):
        raise ConfigError(f"backbone {name!r} is none of torchvision's: did you mean 'timm/{name}'?")
    near = difflib.get_close_matches(name, backbone_names(), n=3, cutoff=0.0)
    hint = ", ".join(repr(item) for item in near)
    raise ConfigError(f"unknown backbone {name!r}: nearest are {hint}; torchvision's names go bare, timm's as 'timm/NAME'")


def build_backbone(name: str, resolution: int = 224) -> Backbone:
    """The backbone `name` with random weights, its channels and stages known.

    Raises `ConfigError` for an unknown name and `ShapeError` where it does not take images of `resolution` px; the message names
    the nearest sizes that it takes.
    """
    check_name(name)
    try:
        return _build(name, resolution)
    except ShapeError as error:
        sizes = [str(size) for size in itertools.islice((size for size in _near(resolution) if _takes(name, size)), 2)]
        ways = f"nearest that it takes: {' or '.join(sizes)} px" if sizes else "no size near this or near 224 px fits either"
        raise ShapeError(f"{error}; {ways}") from None


def _build(name: str, resolution: int) -> Backbone:
    if name.startswith("timm/"):
        backbone: Backbone = build_timm(name, resolution)
    else:
        backbone = PAPERS[name](name) if name in PAPERS else build_torchvision(name)
    backbone.probe(resolution, backbone.candidates())
    return backbone


def _near(resolution: int) -> list[int]:
    """Sizes to try instead: the multiples of 32 (strides) and of 14 (patches) around `resolution`, and the usual 224."""
    around = {step * (resolution // step + up) for step in (14, 32) for up in (0, 1)} | {224}
    return sorted(around - {0, resolution}, key=lambda size: (abs(size - resolution), size))


def _takes(name: str, resolution: int) -> bool:
    try:
        without_values(name, resolution)
    except ShapeError:
        return False
    return True


def without_values(name: str, resolution: int) -> Backbone:
    """As `build_backbone`, with parameters that have shapes but no memory where the network can be made so."""
    check_name(name)
    try:
        with torch.device("meta"):
            return _build(name, resolution)
    except NotImplementedError:  # a network that reads numbers from its tensors while it is made
        return _build(name, resolution)

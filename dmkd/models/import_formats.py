"""The formats in which teachers are published, each a function from a file and what the user says of it to a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import timm.data
import torchvision
from PIL import Image
from torch import Tensor

from dmkd.errors import ConfigError
from dmkd.models.backbones import build_backbone, check_name
from dmkd.models.from_timm import is_timm
from dmkd.models.from_torchvision import published_name, torchvision_names
from dmkd.models.import_files import Published, read_published
from dmkd.models.import_landmark import take_landmark
from dmkd.models.import_network import Look, Said, Taken, take
from dmkd.models.import_parity import Pixels, plain_pixels
from dmkd.models.preprocess import Preprocess

CAFFE_MEAN = (103.939, 116.779, 123.68)
"""Blue, green, red of ImageNet, 0 .. 255, as Caffe's VGG and ResNets subtract it."""
INCEPTION_MEAN = (104.0, 117.0, 128.0)
"""The same of Caffe's BN-Inception."""


def published_state(source: Path, said: Said) -> Published | None:
    """The file; None where `source` is the bare name of a backbone whose published weights are meant."""
    if source.is_file() or source.suffix in (".pth", ".pt", ".safetensors", ".tar", ".bin") or len(source.parts) > 1:
        return read_published(source)
    return None


def take_torchvision(source: Path, said: Said) -> Taken:
    """A state_dict with torchvision's names, or the published weights of the backbone that `source` names."""
    _refuse(said, "torchvision", "mean", "std", "bgr", "interpolation", "crop_ratio", "whitening")
    file = published_state(source, said)
    name = said.backbone or ("" if file else str(source))
    if not name or name not in torchvision_names():
        _unknown_backbone(name, "torchvision")
    preset = next(iter(torchvision.models.get_model_weights(published_name(name)))).transforms
    size = said.resolution or int(preset().crop_size[0])
    short = round(size * preset().resize_size[0] / preset().crop_size[0])
    interpolation = str(preset().interpolation.value)

    def pixels(picture: Image.Image) -> Tensor:
        prepared: Tensor = preset.func(**preset.keywords | {"crop_size": size, "resize_size": short})(picture)
        return prepared[None]

    ratio = size / short
    return take(file, said, name, size, lambda own: Look(_with(own, interpolation), ratio, pixels))


def take_timm(source: Path, said: Said) -> Taken:
    """A state_dict with timm's names, or the published weights of the model (with its tag) that `source` names."""
    _refuse(said, "timm", "mean", "std", "bgr", "interpolation", "crop_ratio", "whitening")
    file = published_state(source, said)
    short_name = (said.backbone or ("" if file else str(source))).removeprefix("timm/")
    if not short_name or not is_timm(short_name):
        _unknown_backbone(f"timm/{short_name}" if short_name else "", "timm")
    published = timm.get_pretrained_cfg(short_name)
    library: Any = timm.data
    known: dict[str, Any] = published.to_dict() if published else {}  # type: ignore[no-untyped-call]
    found: dict[str, Any] = library.resolve_data_config({"crop_mode": "center"}, pretrained_cfg=known)
    size = said.resolution or int(found["input_size"][-1])
    short = math.floor(size / float(found["crop_pct"]))
    found |= {"input_size": (3, size, size), "crop_pct": size / (short + 0.5)}

    def look(own: Preprocess) -> Look:
        interpolation = found["interpolation"] if found["interpolation"] in ("bicubic", "lanczos") else "bilinear"
        preprocess = _with(own, interpolation)
        if (own.mean, own.std) == (tuple(found["mean"]), tuple(found["std"])):
            transform = library.create_transform(**found | {"interpolation": interpolation})
            return Look(preprocess, size / short, lambda picture: transform(picture)[None])
        return Look(preprocess, size / short, _plain_look(preprocess, size, short, 1.0))

    return take(file, said, f"timm/{short_name}", size, look)


def take_caffe(source: Path, said: Said) -> Taken:
    """A state_dict ported from Caffe: blue first, pixels 0 .. 255, a mean subtracted (`--mean`, blue first), no deviation."""
    _refuse(said, "caffe", "bgr", "whitening")
    file = read_published(source)
    if not said.backbone:
        _unknown_backbone("", "caffe")
    check_name(said.backbone)
    mean = said.mean or (INCEPTION_MEAN if "inception" in said.backbone else CAFFE_MEAN)
    std = said.std or (1.0, 1.0, 1.0)
    if max(mean) <= 1:
        raise ConfigError(f"--mean {mean}: the format caffe counts pixels from 0 to 255, blue first, as in {CAFFE_MEAN}")
    preprocess = Preprocess(_scaled(mean), _scaled(std), bgr=True, interpolation=said.interpolation or "bilinear")
    return _take_explicit(file, said, preprocess, (mean, std, 255.0))


def take_state_dict(source: Path, said: Said) -> Taken:
    """Any state_dict: the user names its backbone, and its normalisation where it is not that of the published weights."""
    _refuse(said, "state_dict", "whitening")
    file = read_published(source)
    if not said.backbone:
        _unknown_backbone("", "state_dict")
    own = build_backbone(said.backbone, said.resolution or 224).preprocess
    preprocess = Preprocess(said.mean or own.mean, said.std or own.std, said.bgr, said.interpolation or "bilinear")
    if max(*preprocess.mean, *preprocess.std) > 2:
        raise ConfigError(f"--mean {preprocess.mean}: wanted in units of [0, 1]; the format caffe takes 0 to 255, blue first")
    return _take_explicit(file, said, preprocess, (preprocess.mean, preprocess.std, 1.0))


def _take_explicit(
    file: Published, said: Said, preprocess: Preprocess, numbers: tuple[Sequence[float], Sequence[float], float]
) -> Taken:
    size, (mean, std, scale) = said.resolution or 224, numbers
    ratio = said.crop_ratio or 0.875
    pixels = plain_pixels(
        size, max(size, round(size / ratio)), mean, std, interpolation=preprocess.interpolation, scale=scale, bgr=preprocess.bgr
    )
    return take(file, said, said.backbone, size, lambda own: Look(preprocess, ratio, pixels))


def _plain_look(preprocess: Preprocess, size: int, short: int, scale: float) -> Pixels:
    return plain_pixels(
        size, short, preprocess.mean, preprocess.std, interpolation=preprocess.interpolation, scale=scale, bgr=preprocess.bgr
    )


def _with(preprocess: Preprocess, interpolation: str) -> Preprocess:
    return Preprocess(preprocess.mean, preprocess.std, preprocess.bgr, interpolation)


def _scaled(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value / 255 for value in values)


def _refuse(said: Said, format_: str, *fields: str) -> None:
    """Raise `ConfigError` for what this format settles itself."""
    given = [name for name in fields if getattr(said, name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags}: the format {format_} settles this itself; give the format state_dict to say it by hand")


def _unknown_backbone(name: str, format_: str) -> None:
    if not name:
        raise ConfigError(f"format {format_}: say which network the file is of, as in --backbone resnet50")
    check_name(name)
    raise ConfigError(f"backbone {name!r} is none of {format_}'s: give the format that its weights are of")


FORMATS: dict[str, Callable[[Path, Said], Taken]] = {
    "torchvision": take_torchvision,
    "timm": take_timm,
    "gem": take_landmark,
    "caffe": take_caffe,
    "state_dict": take_state_dict,
}
"""`dmkd import-teacher FORMAT`."""

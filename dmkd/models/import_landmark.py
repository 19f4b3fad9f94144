"""The landmark networks (Radenovic et al. 2018: ResNet, VGG, ... with GeM), and RAML's teachers, which keep the same layout.

A file is {"meta": {architecture, pooling, whitening, mean, std, Lw, ...}, "state_dict": {...}}. The children of the torchvision
model stand in a row under "features" (Radenovic) or "backbone" (RAML), so names begin with their position; "pool.p" is the
exponent; "whiten" a linear layer on the normalised pooled vector. meta.Lw holds whitenings (m, P) learnt afterwards:
P (x - m), for one scale ("ss") and several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from dmkd.errors import ConfigError, WeightsError
from dmkd.models import Network
from dmkd.models.backbones import build_backbone
from dmkd.models.from_timm import is_timm
from dmkd.models.from_torchvision import UNPOOLED
from dmkd.models.import_files import Array, Published, read_published
from dmkd.models.import_network import Said, Taken, embedding_layer, filled, gem_exponent
from dmkd.models.import_parity import Head, Peer, Places, plain_pixels, sequence_places, timm_places
from dmkd.models.preprocess import Preprocess
from dmkd.models.weights import fit_state

POOLINGS = {"gem": "gem", "mac": "max", "spoc": "average"}
"""Names in these files of what is called otherwise here."""
RESOLUTION = 362
"""Side of the training pictures (Radenovic et al.; AML)."""


@dataclass(frozen=True)
class Layout:
    """Where a file keeps its body, and what that is here."""

    key: str
    """"features" or "backbone"."""
    backbone: str
    """Its name here."""
    names: tuple[str, ...] | None
    """Here, of the modules that stand in a row there; None: the names are the same (timm)."""
    modules: tuple[nn.Module, ...] = ()


def take_landmark(source: Path, said: Said) -> Taken:
    """A network in the landmark layout, with its whitening layer, or with the whitening `said.whitening` of meta.Lw.

    Raises `WeightsError` for what `EmbeddingNet` has no place for: local or regional whitening, R-MAC, an exponent a channel.
    """
    _check_said(said)
    file = read_published(source)
    meta, layout = file.meta, _layout(file)
    size, pooling = said.resolution or RESOLUTION, _pooling(file)
    mean, std = _colours(file, "mean"), _colours(file, "std")
    state = dict(file.state)
    head = _head(state, pooling, said, file)
    row = {name.removeprefix(f"{layout.key}."): state.pop(name) for name in list(state) if name.startswith(f"{layout.key}.")}
    backbone = build_backbone(layout.backbone, size)
    fit_state(backbone.body, _renamed(row, layout) | state, str(file.path))
    preprocess = Preprocess(mean, std, interpolation=said.interpolation or "lanczos")
    network = Network(backbone=layout.backbone, weights="none", pooling=pooling, dim=0, resolution=size)
    net = filled(network, backbone, preprocess, head, said)
    ratio = said.crop_ratio or (1.0 if layout.key == "features" else 0.875)
    pixels = plain_pixels(
        size, max(size, round(size / ratio)), mean, std, interpolation=preprocess.interpolation, scale=1.0, bgr=False
    )
    places: Places = sequence_places(layout.modules, row) if layout.names else timm_places(layout.backbone, backbone.options, row)
    others = _whitenings(file) if not said.whitening else []
    note = f"the file also has whitenings {', '.join(map(repr, others))} (--whitening)" if others else ""
    return Taken(net, ratio, Peer(f"{meta['architecture']} put together again", pixels, places, head), note)


def _check_said(said: Said) -> None:
    given = [f"--{name}" for name in ("backbone", "pooling", "embedding", "prefix", "mean", "std", "bgr") if getattr(said, name)]
    if given:
        raise ConfigError(f"{', '.join(given)}: a file of the format gem says this itself; leave it out")


def _layout(file: Published) -> Layout:
    missing = [key for key in ("architecture", "pooling", "mean", "std") if key not in file.meta]
    if missing:
        raise WeightsError(f"{file.path}: its meta lacks {', '.join(missing)}: no landmark network; try the format state_dict")
    architecture = str(file.meta["architecture"])
    key = "backbone" if any(name.startswith("backbone.") for name in file.state) else "features"
    if architecture not in torchvision.models.list_models(module=torchvision.models):
        if key == "backbone" and is_timm(architecture):
            return Layout(key, f"timm/{architecture}", None)
        raise WeightsError(f"{file.path}: architecture {architecture!r} is none of torchvision's (nor, for RAML, of timm's)")
    with torch.device("meta"):  # the file's own weights are put in; nothing has to be drawn for it
        modules = _children(torchvision.models.get_model(architecture, weights=None, **_quiet(architecture)))
    unpooled = key == "features" and architecture in UNPOOLED
    if unpooled:
        modules = modules[:-1]
    if not modules[0][0].startswith("features."):
        modules = [(name, module) for name, module in modules if name not in ("avgpool", "fc", "classifier", "heads", "head")]
    row = [module for _, module in modules] + ([nn.ReLU()] if architecture.startswith("densenet") else [])
    return Layout(key, architecture + "_unpooled" * unpooled, tuple(name for name, _ in modules), tuple(row))


def _quiet(architecture: str) -> dict[str, bool]:
    """Arguments without which torchvision warns of what its defaults will be one day."""
    return {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}


def _children(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a torchvision model, or of its `features`, with their whole names."""
    features = getattr(model, "features", None)
    if isinstance(features, nn.Module):
        return [(f"features.{name}", child) for name, child in features.named_children()]
    return list(model.named_children())


def _renamed(row: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The body's weights under this backbone's names; one that stands beyond the row keeps its name, and will be refused."""
    if layout.names is None:
        return dict(row)
    names = {str(position): name for position, name in enumerate(layout.names)}
    cut = ((*name.partition("."), tensor) for name, tensor in row.items())
    return {f"{names.get(first, first)}{dot}{rest}": tensor for first, dot, rest, tensor in cut}


def _pooling(file: Published) -> str:
    meta = file.meta
    beyond = [key for key in ("local_whitening", "regional") if meta.get(key)]
    found = str(meta["pooling"])
    if beyond or found not in POOLINGS:
        what = ", ".join([*beyond, *([f"pooling {found!r}"] if found not in POOLINGS else [])])
        raise WeightsError(f"{file.path}: has {what}; wanted one of {', '.join(POOLINGS)} over the whole map")
    return POOLINGS[found]


def _head(state: dict[str, Tensor], pooling: str, said: Said, file: Published) -> Head:
    """Take the exponent and the linear layer out of `state`, or the whitening out of meta.Lw."""
    exponent = gem_exponent(state.pop("pool.p", torch.tensor([3.0])), file.path)
    weight, bias = None, None
    if file.meta.get("whitening"):
        weight, bias = embedding_layer(state, "whiten", file.path)
    if said.whitening:
        if weight is not None:
            raise ConfigError(f"--whitening {said.whitening}: the network has a whitening layer of its own; leave it out")
        weight, bias = _learnt_whitening(file, said.whitening)
    if weight is not None and pooling != "gem":
        raise WeightsError(f"{file.path}: whitening after pooling {file.meta['pooling']!r}, wanted after gem")
    return Head(pooling, exponent, weight, bias)


def _learnt_whitening(file: Published, name: str) -> tuple[Tensor, Tensor]:
    """P (x - m) of one scale as a linear layer: weight P, bias -P m."""
    try:
        m, projection = (_matrix(file.meta["Lw"][name]["ss"][key]) for key in ("m", "P"))
        bias = -(projection @ m.reshape(-1))
        if not len(bias):
            raise KeyError("P")
    except (KeyError, TypeError, RuntimeError):
        found = ", ".join(map(repr, _whitenings(file))) or "none"
        raise ConfigError(f"--whitening {name!r}: {file.path} has {found} (each with m and P for one scale)") from None
    return projection.float(), bias.float()


def _whitenings(file: Published) -> list[str]:
    """Names in meta.Lw."""
    found = file.meta.get("Lw")
    return sorted(map(str, found)) if isinstance(found, Mapping) else []


def _matrix(value: Any) -> Tensor:
    return torch.from_numpy(value.value).double() if isinstance(value, Array) else torch.as_tensor(value).double()


def _colours(file: Published, key: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in file.meta[key])
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or (key == "std" and min(numbers) <= 0):
        raise WeightsError(f"{file.path}: meta.{key} is {file.meta[key]!r:.80}, wanted three numbers (red, green, blue)")
    return numbers

"""Where weights come from: a package that carries them, torchvision or timm, a local file, or nowhere ("none")."""

from __future__ import annotations

import contextlib
import pickle
import socket
import urllib.error
import urllib.request
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dmkd.errors import WeightsError
from dmkd.models import efficientnet_lite
from dmkd.models.from_papers import INCEPTION_FILE, NO_WEIGHTS, PaperBackbone
from dmkd.models.from_timm import TimmBackbone, timm_state
from dmkd.models.from_torchvision import published_name
from dmkd.models.preprocess import Preprocess
from dmkd.models.trunk import Backbone

TIMEOUT = 10.0
"""Seconds that a server may stay silent before a download is given up."""


def load_weights(backbone: Backbone, weights: str) -> Preprocess:
    """Fill `backbone` by `Network.weights` and return the preprocessing that these weights want.

    "imagenet": a package with the weights if one is installed, else torchvision's `IMAGENET1K_V1` (the papers' own, not the later
    recipes) or timm's default; "none": leave them random; anything else: the path of a .safetensors, .pth or .pt file.

    Raises `WeightsError` where they cannot be had (no network, no such file) or do not fit.
    """
    if weights == "none":
        return backbone.preprocess
    if weights != "imagenet":
        fit_state(backbone.body, without_classifier(read_weights(Path(weights)), backbone.classifier), weights)
        return backbone.preprocess
    packaged = efficientnet_lite.packaged_file(backbone.name)
    if packaged is not None:
        return _fill_from_package(backbone, packaged)
    published = _published(backbone)
    fit_state(backbone.body, without_classifier(published, backbone.classifier), f"published weights of {backbone.name}")
    return backbone.preprocess


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a .pth / .pt file read without running any code of it. Raises `WeightsError`."""
    if not path.is_file():
        raise WeightsError(f"weights {str(path)!r}: no such file; wanted 'imagenet', 'none', or a .safetensors, .pth or .pt file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol that torch does not write: it loads or it is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"weights {str(path)!r}: holds more than tensors, and is not opened for safety: save its state_dict alone"
        ) from None
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise WeightsError(f"weights {str(path)!r}: not readable ({_one_line(error)}): get the file again") from None
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"weights {str(path)!r}: holds a {type(content).__name__}, wanted a state_dict (names to tensors)")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def without_classifier(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """`state` without the parameters whose names begin with one of `prefixes`."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def fit_state(module: nn.Module, state: Mapping[str, Tensor], source: str, *, assign: bool = False) -> None:
    """Load `state` into `module`: every parameter, none in excess, equal shapes; batch counters may be missing.

    `assign`: tensors of the module's own type become its parameters themselves, for a module that is never written to.
    Raises `WeightsError` that lists what is missing, in excess, or of another shape; `module` is unchanged then.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    excess = [name for name in state if name not in own]
    other = [f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in own if _differs(name, own, state)]
    problems = [_listed("missing", missing), _listed("unexpected", excess), _listed("of another shape", other)]
    if missing or excess or other:
        found = "; ".join(problem for problem in problems if problem)
        raise WeightsError(
            f"{source} does not fit the network: {found}; give the weights of this very backbone, or weights: none"
        )
    # A layer's version travels beside its tensors; without it MNASNet takes its own weights for those of an older release.
    versioned = OrderedDict({name: tensor.to(own[name].dtype) for name, tensor in state.items()} if assign else state)
    versioned._metadata = own._metadata  # type: ignore[attr-defined]
    module.load_state_dict(versioned, strict=False, assign=assign)


def _differs(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    return name in state and state[name].shape != own[name].shape


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} {what} ({', '.join(names[:3])}{more})" if names else ""


def _fill_from_package(backbone: Backbone, file: Path) -> Preprocess:
    blocks: Any = backbone.body.get_submodule("blocks")
    state = efficientnet_lite.to_timm(read_weights(file), [len(stage) for stage in blocks])
    fit_state(backbone.body, without_classifier(state, backbone.classifier), str(file))
    return efficientnet_lite.PREPROCESS


def _published(backbone: Backbone) -> Mapping[str, Tensor]:
    if backbone.name in NO_WEIGHTS:
        raise WeightsError(
            f"no ImageNet weights are published for {backbone.name!r} ({NO_WEIGHTS[backbone.name]}): "
            "give the path of a file, or weights: none"
        )
    if isinstance(backbone, PaperBackbone):
        return _from_url(backbone.name, INCEPTION_FILE)
    return _from_timm(backbone) if isinstance(backbone, TimmBackbone) else _from_torchvision(backbone)


def _from_url(name: str, url: str) -> dict[str, Tensor]:
    """A file whose name ends with the beginning of its hash, from torch.hub's folder or the net."""
    stored = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    with _download(name, url, [stored]):
        if not stored.is_file():
            stored.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(stored), stored.stem.rsplit("-", 1)[-1], progress=False)
    return read_weights(stored)


def _from_torchvision(backbone: Backbone) -> Mapping[str, Tensor]:
    import torchvision

    if backbone.name.endswith("_v1"):
        raise WeightsError(f"no weights are published for {backbone.name!r}: give the path of a file, or weights: none")
    published = torchvision.models.get_model_weights(published_name(backbone.name))
    choice = getattr(published, "IMAGENET1K_V1", None) or published.DEFAULT
    stored = Path(torch.hub.get_dir(), "checkpoints", choice.url.rsplit("/", 1)[-1])
    with _download(backbone.name, choice.url, [stored]):
        state: Mapping[str, Tensor] = choice.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return state


def _from_timm(backbone: TimmBackbone) -> Mapping[str, Tensor]:
    published: Any = backbone.body.pretrained_cfg
    hub = published.get("hf_hub_id")
    if not hub and not published.get("url"):
        raise WeightsError(f"timm publishes no weights for {backbone.name!r}: give the path of a file, or weights: none")
    import huggingface_hub

    own = published.get("hf_hub_filename")
    names = ((own,) if own else ("model.safetensors", "pytorch_model.bin")) if hub else ()
    cached = [file for file in (huggingface_hub.try_to_load_from_cache(hub, name) for name in names) if isinstance(file, str)]
    url = huggingface_hub.constants.ENDPOINT if hub else published["url"]
    with _download(backbone.name, url, map(Path, cached)):
        return timm_state(backbone, {"file": cached[0]} if cached else {})


@contextlib.contextmanager
def _download(name: str, url: str, stored: Iterable[Path]) -> Iterator[None]:
    """Fail at once where `url` cannot be reached (the libraries would try for a minute), unless the file is already here."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        if not any(file.is_file() for file in stored):
            _reach(url)
        yield
    except (OSError, RuntimeError) as error:
        package = efficientnet_lite.package_of(name)
        ways = f"install {package}, " if package else ""
        found = f"ImageNet weights of {name!r} cannot be had from {url} ({_one_line(error)})"
        raise WeightsError(f"{found}: {ways}give the path of a weight file, or weights: none") from None
    finally:
        socket.setdefaulttimeout(before)


def _reach(url: str) -> None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT):
            return
    except urllib.error.HTTPError:
        return  # an answer, whatever it says: the download itself will tell


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]

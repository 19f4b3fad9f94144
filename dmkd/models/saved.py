"""A network as a folder: weights.safetensors, and model.json with all that is needed to use them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from dmkd import space
from dmkd.errors import CheckpointError, DmkdError
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, assemble
from dmkd.models.preprocess import Preprocess
from dmkd.models.storage import present, read_file, sha256, write_folder
from dmkd.models.weights import fit_state

FORMAT = "dmkd-model-1"
WEIGHTS, CARD = "weights.safetensors", "model.json"
SCALE = ".int8_scale"
"""Follows the name of a tensor that is stored as int8; the tensor is its numbers times this [C, 1, ...]."""


def save_model(
    net: EmbeddingNet,
    folder: Path | str,
    *,
    resolution: int,
    extra: Mapping[str, Any] | None = None,
    files: Mapping[str, str | bytes] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Write `net` as a folder, atomically: a crash or a full disk leaves what was there before. Returns what model.json says.

    `resolution`: side of the square images it was trained for. `extra` (plain values) stands under "extra" in model.json; its
    `crop_ratio` enters the preprocessing (default 0.875). `files`: further files by plain name (config.yaml), checksummed too.
    `weights` are stored instead of the network's own, which they are a rounding of (float16, or int8 with its `SCALE`); the
    embedding space stays that of `net`. Raises `CheckpointError`.
    """
    state = net.state_dict() if weights is None else weights
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    contents = {WEIGHTS: safetensors.save(state)} | {name: _bytes(name, text) for name, text in (files or {}).items()}
    ratio = float((extra or {}).get("crop_ratio", 0.875))
    info: dict[str, Any] = {
        "format": FORMAT,
        "network": space.to_dict(replace(net.network, checkpoint="")),
        "resolution": resolution,
        "preprocessing": preprocessing(net.preprocess, resolution, ratio),
        "embedding": {"dim": net.head.dim, "unit_length": True, "compare_by": "dot product"},
        "embedding_space": embedding_space(net),
        "checksums": {name: sha256(content) for name, content in contents.items()},
        "extra": dict(extra or {}),
    }
    info = json.loads(_json(info, indent=2))
    info["sha256"] = _own_checksum(info)
    write_folder(Path(folder), contents | {CARD: _json(info, indent=2)})
    return info


_held: dict[str, Mapping[str, Tensor]] = {}


def hold_weights(held: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give this process weights that it has in memory, {SHA-256 of their file: tensors}, in the place of an earlier call's.

    `load_model` takes them for a file of that checksum, and does not read it. They may be memory that other processes read too:
    nobody writes to them.
    """
    _held.clear()
    _held.update(held)


def read_weights(folder: Path | str) -> tuple[str, dict[str, Tensor]]:
    """What `hold_weights` takes of a checkpoint folder: checksum and tensors, verified. Raises `CheckpointError`."""
    folder = present(Path(folder))
    info = read_info(folder)
    return str(info["checksums"][WEIGHTS]), _verified(folder, info)


def load_model(folder: Path | str, *, frozen: bool = False) -> tuple[EmbeddingNet, dict[str, Any]]:
    """The network of a folder that `save_model` wrote, on the CPU in training mode, and its model.json.

    `frozen`: for a network that is never written to: held weights (`hold_weights`) are its parameters, not copied to them.
    Nothing is downloaded, no code of the folder is run. Raises `CheckpointError` where anything is missing, altered or foreign.
    """
    folder = present(Path(folder))
    info = read_info(folder)
    try:
        state, recorded = _verified(folder, info), dict(info["preprocessing"])
        network = space.build(Network, info["network"])
        preprocess = Preprocess(
            tuple(recorded["mean"]), tuple(recorded["std"]), recorded["channels"] == "bgr", recorded["interpolation"]
        )
        net = assemble(network, preprocess)
        fit_state(net, multiplied_out(state), str(folder), assign=frozen)
    except CheckpointError:
        raise
    except (DmkdError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}: its model.json does not describe its weights ({error})") from None
    return net, info


def multiplied_out(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with every int8 tensor times its scale, float32; all others as they are."""
    plain = {name: tensor for name, tensor in state.items() if not name.endswith(SCALE)}
    return {name: tensor.float() * state[name + SCALE] if name + SCALE in state else tensor for name, tensor in plain.items()}


def read_info(folder: Path | str) -> dict[str, Any]:
    """model.json of a checkpoint folder, its own checksum verified. Raises `CheckpointError`."""
    folder = Path(folder)
    content = read_file(folder, CARD)
    try:
        info = json.loads(content)
    except ValueError:
        raise CheckpointError(f"{folder / CARD}: truncated or altered (no JSON); copy the folder again") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        found = info.get("format") if isinstance(info, dict) else type(info).__name__
        raise CheckpointError(f"{folder / CARD}: format {found!r}, wanted {FORMAT!r}: not a checkpoint of this version of dmkd")
    if info.get("sha256") != _own_checksum(info):
        raise CheckpointError(f"{folder / CARD}: altered since it was written (its own checksum differs); copy the folder again")
    return info


def preprocessing(preprocess: Preprocess, resolution: int, crop_ratio: float) -> dict[str, Any]:
    """Every step from an 8-bit RGB picture to the network's input, for a reader without dmkd.

    The last step, (pixel / 255 - mean) / std, is part of the network here, and of every exported file.
    """
    return {
        "resize_shorter_side": max(resolution, round(resolution / crop_ratio)),
        "interpolation": preprocess.interpolation,
        "antialias": True,
        "center_crop": resolution,
        "crop_ratio": crop_ratio,
        "scale": "pixel / 255",
        "channels": "bgr" if preprocess.bgr else "rgb",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }


def embedding_space(net: EmbeddingNet) -> str:
    """16 hexadecimal digits that two networks share only if they give the same embeddings: a hash of weights and architecture."""
    digest = hashlib.sha256(_json([net.network.backbone, net.network.pooling, net.network.dim, asdict(net.preprocess)]))
    for name, tensor in sorted(net.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_raw(tensor))
    return digest.hexdigest()[:16]


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _verified(folder: Path, info: dict[str, Any]) -> dict[str, Tensor]:
    """The weights; every file that model.json lists is compared with its checksum, but for weights that are held by it."""
    listed = info["checksums"]
    if WEIGHTS not in listed or not all(_plain_name(name) for name in listed):
        raise CheckpointError(
            f"{folder / CARD}: lists files {', '.join(map(repr, listed))}, wanted {WEIGHTS!r} and plain names only"
        )
    held = _held.get(str(listed[WEIGHTS]))
    read = [name for name in listed if name != WEIGHTS or held is None]
    contents = {name: read_file(folder, name, str(listed[name])) for name in read}
    if held is not None:
        return dict(held)
    try:
        return safetensors.load(contents[WEIGHTS])
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: not readable ({error})") from None


def _bytes(name: str, content: str | bytes) -> bytes:
    if not _plain_name(name) or name in (WEIGHTS, CARD):
        raise CheckpointError(f"file name {name!r}: wanted a plain name other than {WEIGHTS} and {CARD}")
    return content.encode() if isinstance(content, str) else content


def _plain_name(name: str) -> bool:
    return bool(name) and Path(name).name == name and name != ".." and "\\" not in name


def _own_checksum(info: Mapping[str, Any]) -> str:
    return sha256(_json({key: value for key, value in info.items() if key != "sha256"}))


def _json(value: Any, indent: int | None = None) -> bytes:
    try:
        return json.dumps(value, indent=indent, sort_keys=indent is None, allow_nan=True, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"model.json: extra holds what JSON cannot ({error}): give numbers, strings, lists and mappings"
        ) from None

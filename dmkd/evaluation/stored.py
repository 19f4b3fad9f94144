"""Teacher features of whole parts of a data set on the disk, named by all that they depend on, never used where that differs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from dmkd import __version__
from dmkd.caches import cache_folder
from dmkd.data.pictures import Pictures
from dmkd.errors import CheckpointError
from dmkd.evaluation.measure import Measure, Side
from dmkd.models.saved import embedding_space, preprocessing

FORMAT = "dmkd-features-1"
NEVER = "none"
"""`teacher.features` of a run that stores nothing and reads nothing."""


def features_folder() -> Path:
    """Where features are kept: `$DMKD_FEATURES`, else `$DMKD_CACHE/features`, else `~/.cache/dmkd/features`."""
    if os.environ.get("DMKD_FEATURES"):
        return Path(os.environ["DMKD_FEATURES"]).expanduser()
    return cache_folder() / "features"


def stored_embeddings(measure: Measure, side: Side, where: str = "") -> Tensor:
    """[N, D] float32 embeddings of a whole part, on the CPU: `Measure.embed`, computed once for all runs that share them.

    `where`: "" takes them from the cache, or computes and keeps them there; "none" computes them; anything else is the path of a
    file of stored features, which must be of these weights, this transform and these pictures in this order.
    Raises `CheckpointError` where such a file is missing, damaged or of something else (it says what).
    """
    if where == NEVER:
        return measure.embed(side)
    wanted = fingerprint(measure, side)
    file = cache_file(wanted, measure)
    if where:
        return _given(Path(where), wanted, file)
    with contextlib.suppress(CheckpointError):  # not there yet, or damaged: it is made anew
        return read_features(file, wanted)
    features = measure.embed(side)
    if not measure.part.readable().all():  # a reader of the file could not tell which rows stand for broken pictures
        return features
    try:
        write_features(features, wanted, file)
    except OSError as error:
        reason = error.strerror or str(error)
        warnings.warn(f"teacher features cannot be kept in {file.parent} ({reason}): each run computes them", stacklevel=2)
    return features


def fingerprint(measure: Measure, side: Side) -> dict[str, Any]:
    """What features depend on: weights (the embedding space), transform, and pictures (their bytes, their order)."""
    steps = preprocessing(side.network.preprocess, side.resolution, measure.data.crop_ratio)
    quality = measure.data.quality(side.role)
    return {
        "weights": embedding_space(side.network),
        "transform": steps | asdict(quality) | ({"resize": "max_side"} if measure.data.transform == "max_side" else {}),
        "images": pictures_digest(measure.part, boxes=quality.boxes),
        "count": len(measure.part),
    }


def pictures_digest(part: Pictures, *, boxes: bool = False) -> str:
    """32 hexadecimal digits of a SHA-256 over the bytes of every picture, in order (and over its box, where they are cut out).

    Class names and paths do not enter: the same pictures in another folder have the same features.
    """
    digest = hashlib.sha256()
    for position in range(len(part)):
        try:
            with open(part.file(position), "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            digest.update(b"unreadable")
        if boxes and part.boxes is not None:
            digest.update(part.boxes[position].tobytes())
    return digest.hexdigest()[:32]


def cache_file(wanted: Mapping[str, Any], measure: Measure) -> Path:
    """The file in the cache. Its name also depends on what may change the last bits: device, batch size, versions."""
    computed = [measure.device.type, measure.evaluation.batch_size, torch.__version__, __version__]
    name = hashlib.sha256(_json([FORMAT, wanted, computed])).hexdigest()[:32]
    return features_folder() / f"{name}.safetensors"


def write_features(features: Tensor, wanted: Mapping[str, Any], file: Path) -> None:
    """Write [N, D] features with their fingerprint: whole or not at all, also where several processes write the same file."""
    features = features.contiguous()
    card = {"format": FORMAT, "fingerprint": dict(wanted), "sha256": _checksum(features, wanted)}
    content = safetensors.save({"features": features}, metadata={"dmkd": _json(card).decode()})
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def read_features(file: Path, wanted: Mapping[str, Any]) -> Tensor:
    """The features of `file`. Raises `CheckpointError` unless they are whole and have the fingerprint `wanted`."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file of stored features")
    try:
        with safe_open(file, framework="pt") as opened:
            card = json.loads((opened.metadata() or {})["dmkd"])
            features: Tensor = opened.get_tensor("features")
        if card["format"] != FORMAT:
            raise CheckpointError(f"{file}: format {card['format']!r}, wanted {FORMAT!r}")
        found, recorded = card["fingerprint"], card["sha256"]
        if not isinstance(found, Mapping) or features.dtype != torch.float32 or features.ndim != 2:
            raise TypeError
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: no file of stored features, or truncated ({type(error).__name__})") from None
    if _checksum(features, found) != recorded:
        raise CheckpointError(f"{file}: altered since it was written (its checksum differs)")
    if found != wanted:
        raise CheckpointError(f"{file}: stale, of other {_difference(found, wanted)}")
    if len(features) != wanted.get("count", len(features)) or not torch.isfinite(features).all():
        raise CheckpointError(f"{file}: found {len(features)} rows, wanted {wanted.get('count')}, and every number finite")
    return features


def _given(file: Path, wanted: Mapping[str, Any], cached: Path) -> Tensor:
    try:
        return read_features(file, wanted)
    except CheckpointError as error:
        raise CheckpointError(
            f"teacher.features: {error}; it is not used: with teacher.features='' they are made, and kept as {cached}"
        ) from None


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What two fingerprints differ in, with both values."""
    flat = [
        {f"{key}.{name}" if name else key: item for key, value in side.items() for name, item in _items(value)}
        for side in (found, wanted)
    ]
    keys = [key for key in sorted(flat[0].keys() | flat[1].keys()) if flat[0].get(key) != flat[1].get(key)]
    return "; ".join(f"{key} (found {flat[0].get(key)}, wanted {flat[1].get(key)})" for key in keys)


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else [("", value)]


def _checksum(features: Tensor, wanted: Any) -> str:
    digest = hashlib.sha256(_json([wanted, list(features.shape), str(features.dtype)]))
    digest.update(features.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()

"""Deployment: a student as safetensors with its graph, ONNX or torch.export, checked against itself, with a model card.

Every format takes float32 RGB images in [0, 1], [B, 3, H, W], B from 1 up, H and W free where the network allows it (else the
training resolution), and gives embeddings [B, D] of unit length: normalisation is part of the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dmkd.errors import ConfigError, DmkdError
from dmkd.export.card import model_card
from dmkd.export.precision import PRECISIONS, Embeds, check_precision, rounded, stored
from dmkd.export.programs import ExportError, Program, graph, may_be_sized, onnx, pt2
from dmkd.models.embedder import EmbeddingNet
from dmkd.models.saved import save_model
from dmkd.space import nearest

__all__ = ["FORMATS", "PARITY", "PRECISIONS", "ExportError", "Program", "export", "make_program", "model_card"]

_log = logging.getLogger("dmkd")
PARITY = {"fp32": 1e-4, "fp16": 5e-3, "int8": 1e-4}
"""Largest difference of any number of an embedding that counts as the same network, in the arithmetic of each precision."""
SAME_PADDING = 'its padding depends on the size (TensorFlow\'s "same")'
NO_EXPORT = "the exporter made no program of any size of it"
"""Why a program takes images of one size: `runs.size_because` of model.json."""
FORMATS: dict[str, Callable[[Embeds, EmbeddingNet, Tensor, bool], Program]] = {"safetensors": graph, "onnx": onnx, "pt2": pt2}
"""The maker of each format's program, from the rounded network, the network, pictures, and whether sizes are to be free."""


def export(
    net: EmbeddingNet,
    folder: Path | str,
    format: str = "safetensors",
    *,
    images: Tensor,
    resolution: int = 0,
    extra: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    files: Mapping[str, str | bytes] | None = None,
) -> dict[str, Any]:
    """Write `net` into `folder`: weights.safetensors and model.json, README.md, and the format's program. Returns model.json.

    `images` [B, 3, resolution, resolution] are real pictures on which the written program must give the network's own embeddings
    (to `PARITY`); B at least 2. `resolution` 0: the network's own. `files`: further files by plain name.

    Raises `ConfigError` for an unknown format or precision, a package that is not installed or images of another size,
    `ExportError` where the parity check fails (nothing is written then), `CheckpointError` where the folder cannot be written.
    """
    program, notes = make_program(net, format, precision, images=images, resolution=resolution)
    return write_export(net, folder, program, dict(extra or {}) | notes, resolution=resolution, files=files or {})


def make_program(
    net: EmbeddingNet, format: str, precision: str, *, images: Tensor, resolution: int = 0
) -> tuple[Program, dict[str, Any]]:
    """The program of `net`, compared with the network on `images`, and what model.json says of it. Errors as `export`."""
    if format not in FORMATS:
        raise ConfigError(f"format {format!r}: {nearest(format, FORMATS)}")
    check_precision(precision)
    resolution = resolution or net.network.resolution
    if images.ndim != 4 or len(images) < 2 or images.shape[1:] != (3, resolution, resolution):
        raise ConfigError(
            f"images {tuple(images.shape)}: wanted at least 2 of (3, {resolution}, {resolution}) for the parity check"
        )
    was_training, net = net.training, net.cpu().eval()
    try:
        model, images = rounded(net, precision), images.float().cpu()
        program, compared = _made(model, net, images, format)
        told = {"program": program.file, "size": "any" if program.sized else resolution, "batch": "any"}
        if not program.sized:
            told["size_because"] = NO_EXPORT if may_be_sized(net) else SAME_PADDING
        return program, {"format": format, "precision": precision, "runs": told, "parity": compared}
    finally:
        net.train(was_training)


def _made(model: Embeds, net: EmbeddingNet, images: Tensor, format: str) -> tuple[Program, dict[str, Any]]:
    """The program for images of any size, or, where the network does not take that, for those of this size; and its check."""
    if may_be_sized(net):
        try:
            program = FORMATS[format](model, net, images, True)
            return program, _compared(program, model, images, format)
        except ConfigError:
            raise
        except Exception as error:
            # The exporters refuse with errors of a dozen classes; what counts is whether the fixed size below works.
            _log.debug("no program of any size: %s", error)
    try:
        program = FORMATS[format](model, net, images, False)
    except DmkdError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ExportError(f"this network could not be exported ({said}): take --no-program, and load it with dmkd") from error
    return program, _compared(program, model, images, format)


def write_export(
    net: EmbeddingNet,
    folder: Path | str,
    program: Program | None,
    notes: Mapping[str, Any],
    *,
    resolution: int = 0,
    files: Mapping[str, str | bytes],
) -> dict[str, Any]:
    """Write a network with its program (None: without one) as a folder, whole or not at all. Returns model.json."""
    resolution = resolution or net.network.resolution
    own: dict[str, str | bytes] = {program.file: program.content} if program else {}
    own["README.md"] = model_card(net, resolution, notes)
    weights = stored(net, str(notes.get("precision", "fp32")))
    return save_model(net, folder, resolution=resolution, extra=notes, files={**files, **own}, weights=weights)


def _compared(program: Program, model: Embeds, images: Tensor, format: str) -> dict[str, Any]:
    """The largest difference on the whole batch, on its first image alone, and at another size. Raises `ExportError`."""
    parts = [images, images[:1].contiguous()]
    if program.sized:
        height, width = images.shape[2] + 32, images.shape[3] + 16
        parts.append(functional.interpolate(images[:2], (height, width), mode="bilinear", antialias=True).clamp(0, 1))
    with torch.no_grad():
        pairs = [(program.run(part), model(part)) for part in parts]
    difference = max(float((found - wanted).abs().max()) for found, wanted in pairs)
    cosine = min(float((found * wanted).sum(1).min()) for found, wanted in pairs)
    # ONNX Runtime's int8 rounds activations too: another network, whose loss is measured, not one to be equal.
    allowed = float("inf") if (format, model.precision) == ("onnx", "int8") else PARITY[model.precision]
    if not difference <= allowed:
        raise ExportError(
            f"the {format} file differs from the network by {difference:.2g}, allowed {allowed:g}: nothing was written"
        )
    return {"images": len(images), "sizes": len(parts) - 1, "largest_difference": difference, "smallest_cosine": cosine}

"""Deployment: a student as safetensors, ONNX or torch.export, checked against itself, with a model card.

Every format takes float32 RGB images in [0, 1] of the training resolution, [B, 3, resolution, resolution], B from 1 up, and gives
embeddings [B, D] of unit length: normalisation is part of the file.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmkd.errors import ConfigError, DmkdError
from dmkd.models.embedder import EmbeddingNet
from dmkd.models.saved import CARD, save_model
from dmkd.space import nearest

PARITY = 1e-4
"""Largest difference of any number of an embedding that counts as the same network."""


class ExportError(DmkdError, RuntimeError):
    """An exported file could not be made, or does not give the embeddings of the network it was made from."""


class Embeds(nn.Module):
    """A network's embeddings alone: what is exported."""

    def __init__(self, net: EmbeddingNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, D]."""
        embedding: Tensor = self.net(images).embedding
        return embedding


def export(
    net: EmbeddingNet,
    folder: Path | str,
    format: str = "safetensors",
    *,
    images: Tensor,
    resolution: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `net` into `folder`: weights.safetensors and model.json, README.md, and model.onnx or model.pt2. Returns model.json.

    `images` [B, 3, resolution, resolution] are real pictures on which the written file must give the network's own embeddings
    (to `PARITY`); B at least 2. `resolution` 0: the network's own.

    Raises `ConfigError` for an unknown format, a package that is not installed or images of another size, `ExportError` where
    the parity check fails (nothing is written then), `CheckpointError` where the folder cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"format {format!r}: {nearest(format, FORMATS)}")
    resolution = resolution or net.network.resolution
    if images.ndim != 4 or len(images) < 2 or images.shape[1:] != (3, resolution, resolution):
        raise ConfigError(
            f"images {tuple(images.shape)}: wanted at least 2 of (3, {resolution}, {resolution}) for the parity check"
        )
    was_training, net = net.training, net.cpu().eval()
    try:
        files, difference = FORMATS[format](Embeds(net).eval(), images.float().cpu())
    finally:
        net.train(was_training)
    notes = dict(extra or {}) | {"format": format, "parity": {"images": len(images), "largest_difference": difference}}
    card = model_card(net, resolution, notes)
    return save_model(net, folder, resolution=resolution, extra=notes, files={"README.md": card, **files})


def _safetensors(_model: Embeds, _images: Tensor) -> tuple[dict[str, bytes], float]:
    return {}, 0.0


def _onnx(model: Embeds, images: Tensor) -> tuple[dict[str, bytes], float]:
    missing = [package for package in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"format onnx needs {', '.join(missing)}: pip install 'dmkd[export]'")
    import onnxruntime

    with _quiet():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx gave no program: export as pt2 or safetensors")
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = _parity("onnx", model, images, lambda part: torch.from_numpy(session.run(None, {"images": part.numpy()})[0]))
    return {"model.onnx": content}, difference


def _pt2(model: Embeds, images: Tensor) -> tuple[dict[str, bytes], float]:
    buffer = io.BytesIO()
    with _quiet():
        program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}})
        torch.export.save(program, buffer)
        loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return {"model.pt2": buffer.getvalue()}, _parity("pt2", model, images, loaded)


FORMATS: dict[str, Callable[[Embeds, Tensor], tuple[dict[str, bytes], float]]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "pt2": _pt2,
}
"""Makers of each format's own files, from a model and pictures, with the largest difference that the check found."""


def _parity(format: str, model: Embeds, images: Tensor, exported: Callable[[Tensor], Tensor]) -> float:
    """The largest difference on the whole batch and on its first image alone. Raises `ExportError` above `PARITY`."""
    with torch.no_grad():
        difference = max(float((exported(part) - model(part)).abs().max()) for part in (images, images[:1].contiguous()))
    if not difference <= PARITY:
        raise ExportError(
            f"the {format} file differs from the network by {difference:.2g}, allowed {PARITY:g}: nothing was written"
        )
    return difference


class _quiet(warnings.catch_warnings):
    """The exporters warn of their own internals; what counts here is the parity check."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


def model_card(net: EmbeddingNet, resolution: int, notes: Mapping[str, Any]) -> str:
    """README.md of an exported folder: what the network is, how pictures must come, what was measured, where it comes from."""
    network, metrics = net.network, dict(notes.get("metrics", {}))
    rest = {key: value for key, value in notes.items() if key != "metrics"}
    architecture = {key: getattr(network, key) for key in ("backbone", "projection", "pooling")}
    architecture |= {"dim": net.head.dim, "started from": network.weights}
    lines = [
        f"# {network.backbone}, {net.head.dim}-d embeddings",
        "",
        "An image-embedding network for retrieval, trained by dmkd.",
        "Its embeddings have unit length: compare them by their dot product.",
        "",
        "## Input",
        f"float32 RGB in [0, 1], [B, 3, {resolution}, {resolution}]; the network normalises it itself.",
        f"{CARD} under `preprocessing` says every step from an 8-bit picture on (the last one, mean and std, is inside).",
        "",
        "## Architecture",
        *_table(architecture),
        "",
        "## Metrics",
        *(_table(metrics) if metrics else ["None were recorded with this export."]),
        "",
        "## Provenance",
        *_table(rest),
        "",
    ]
    return "\n".join(lines)


def _table(rows: Mapping[str, Any]) -> list[str]:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|") for key, value in rows.items()}
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())]

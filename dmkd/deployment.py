"""A verified checkpoint folder made ready to run without dmkd: its program, checked on real pictures, `embed.py`, `search.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dmkd.checkpoint import load_model
from dmkd.data import LANDMARKS
from dmkd.data.cache import open_picture
from dmkd.data.datasets import load_dataset
from dmkd.data.pictures import SUFFIXES
from dmkd.data.splits import split as split_parts
from dmkd.data.views import centre_view, to_unit
from dmkd.errors import ConfigError, DataError
from dmkd.evaluation.measure import Measure, Side
from dmkd.export import Program, make_program, write_export
from dmkd.models.embedder import EmbeddingNet
from dmkd.models.saved import CARD, WEIGHTS
from dmkd.run import evaluation_config, measure_of

TEMPLATES = Path(__file__).parent / "deploy"
COPIED = ("embed.py", "search.py")
PARITY_PICTURES, CALIBRATION_PICTURES = 8, 64
"""How many pictures a program is compared on, and how many ONNX Runtime's int8 sees of the range of activations."""


@dataclass(frozen=True)
class Wanted:
    """What a pulled folder is to hold."""

    format: str = "safetensors"
    precision: str = "fp32"
    pictures: Path | None = None
    """A folder of real pictures to compare on; None: those of the checkpoint's own data set."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Override `data.*` and `evaluation.*` of the checkpoint's configuration."""
    split: str = "test"
    """The part on which the loss of a smaller precision is measured."""
    measured: bool = True
    """Measure that loss."""
    gallery: Path | None = None
    """The checkpoint whose network embeds the gallery, where that is another: the loss is measured there, too."""
    configured: bool = True
    """Keep config.yaml, which names places of the machine that trained."""


def deploy(folder: Path, wanted: Wanted, provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Rewrite a checkpoint folder with its program, `embed.py` and `search.py`. Returns model.json; errors leave it as it was.

    Raises `ConfigError` (unknown format or precision, no real pictures to compare on), `ExportError` (a program that differs),
    `DataError`, `CheckpointError`.
    """
    network, info = load_model(folder)
    resolution, extra = int(info["resolution"]), dict(info["extra"])
    files, source = real_pictures(folder, wanted)
    calibrates = (wanted.format, wanted.precision) == ("onnx", "int8")
    if calibrates and source in ("val", "test"):
        raise ConfigError(
            "format onnx, precision int8: its calibration wants training pictures, and the checkpoint's data set has none; give "
            "--pictures DIR, or take another format (their int8 needs no calibration)"
        )
    if not files and (wanted.format, wanted.precision) != ("safetensors", "fp32"):
        raise ConfigError(
            f"format {wanted.format}, precision {wanted.precision}: no real pictures to compare it on, the checkpoint's data set "
            "is not here; give --pictures DIR, or --set data.root=DIR"
        )
    images = _pixels(files, info) if files else _generated(resolution)
    few = images[:: max(1, len(images) // PARITY_PICTURES)][:PARITY_PICTURES]
    network.eval()
    program, notes = make_program(
        network, wanted.format, wanted.precision, images=images if calibrates else few, resolution=resolution
    )
    notes["parity"] |= {"pictures": "real" if files else "generated: no real ones were here"}
    if calibrates:
        notes["calibration"] = {"pictures": len(images), "of": source}
    if wanted.precision != "fp32" and wanted.measured:
        notes["loss"] = loss_of(network, resolution, program, folder, wanted)
    kept = {name: (folder / name).read_bytes() for name in info["checksums"] if name not in (WEIGHTS, CARD, "README.md")}
    if not wanted.configured:
        kept.pop("config.yaml", None)
    made = {name: (TEMPLATES / name).read_bytes() for name in COPIED}
    told = extra | notes | ({"provenance": dict(provenance)} if provenance else {})
    return write_export(network, folder, program, told, resolution=resolution, files=kept | made)


def real_pictures(folder: Path, wanted: Wanted) -> tuple[list[Path], str]:
    """Up to `CALIBRATION_PICTURES` files, spread over the folder `wanted.pictures`, or over a part of the checkpoint's data set.

    And what they are of: "--pictures", or "train" ("val" or "test" only where a data set has nothing else). Empty where the data
    set is not here. Raises `DataError` for a folder without two pictures.
    """
    if wanted.pictures is not None:
        found = sorted(path for path in wanted.pictures.rglob("*") if path.suffix.lower() in SUFFIXES)
        if len(found) < 2:
            raise DataError(f"{wanted.pictures}: {len(found)} pictures in it, wanted at least 2 to compare on")
        return _spread(found), "--pictures"
    config = evaluation_config(folder, wanted.changes)
    try:
        parts = split_parts(load_dataset(config.data), config.data)
    except DataError:
        return [], ""
    # int8 ranges are fitted to what is seen here: that makes it training, and the test part must not know of it.
    name = "train" if len(parts.train) else "val" if parts.val else "test"
    part = getattr(parts, name)
    readable = part.readable()
    return _spread([Path(part.file(position)) for position in range(len(part)) if readable[position]]), name


def _spread(found: Sequence[Path]) -> list[Path]:
    return [found[position] for position in np.unique(np.linspace(0, len(found) - 1, CALIBRATION_PICTURES).astype(int))]


def _pixels(files: Sequence[Path], info: Mapping[str, Any]) -> Tensor:
    """[N, 3, R, R] of picture files, through the test transform."""
    steps, size = info["preprocessing"], int(info["resolution"])
    views = [centre_view(open_picture(path), size, float(steps["crop_ratio"]), steps["interpolation"]) for path in files]
    return torch.from_numpy(to_unit(views))


def _generated(resolution: int) -> Tensor:
    """[4, 3, R, R] smooth random images, where there are no real ones."""
    noise = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(noise, (resolution, resolution), mode="bicubic").clamp(0, 1)


class Runs(nn.Module):
    """A program in the place of a network, where embeddings are made."""

    def __init__(self, run: Callable[[Tensor], Tensor], network: EmbeddingNet) -> None:
        super().__init__()
        self._run, self.preprocess = run, network.preprocess

    def forward(self, images: Tensor) -> Any:
        """[B, 3, H, W] -> something with an `embedding` [B, D]."""
        return SimpleNamespace(embedding=self._run(images.cpu()))


def loss_of(network: EmbeddingNet, resolution: int, program: Program, folder: Path, wanted: Wanted) -> dict[str, Any]:
    """Recall@1 of the network and of its smaller program on a part of its data set: alone, in the network's own gallery, and in
    that of `wanted.gallery`.

    Raises `DataError` where the data set is not here, `ConfigError` for a landmark test set.
    """
    config = evaluation_config(folder, wanted.changes)
    if config.data.name in LANDMARKS:
        raise ConfigError(f"precision {wanted.precision}: its loss is not measured on {config.data.name}; give --unmeasured")
    try:
        measure = measure_of(config.data, replace(config.evaluation, nmi=False), wanted.split, torch.device("cpu"))
    except DataError as error:
        raise DataError(
            f"the loss of {wanted.precision} cannot be measured: {error} (or take it as it is: --unmeasured)"
        ) from None
    small = cast(EmbeddingNet, Runs(program.run, network))
    whole, less = (measure.embed(Side(one, resolution)) for one in (network, small))
    wall = None if wanted.gallery is None else _wall(measure, wanted.gallery)
    told: dict[str, Any] = {"split": wanted.split, "pictures": len(measure.part)}
    return told | _losses(measure, wanted.precision, whole, less, wall)


def _wall(measure: Measure, gallery: Path) -> Tensor:
    """The part as the network in the folder `gallery` embeds it, by its own preprocessing."""
    network, info = load_model(gallery)
    data = replace(measure.data, crop_ratio=float(info["preprocessing"]["crop_ratio"]))
    return replace(measure, data=data).embed(Side(network.eval(), int(info["resolution"]), "teacher"))


def _losses(measure: Measure, name: str, whole: Tensor, less: Tensor, wall: Tensor | None) -> dict[str, float]:
    pairs = {"fp32": (whole, whole), name: (less, less), f"{name} queries, fp32 gallery": (less, whole)}
    if wall is not None:
        pairs |= {"fp32 queries, teacher's gallery": (whole, wall), f"{name} queries, teacher's gallery": (less, wall)}
    recall = {key: measure.compare(*pair)[0]["recall_at_1"] for key, pair in pairs.items()}
    told = {f"recall_at_1, {key}": value for key, value in recall.items()}
    return told | {"loss of recall_at_1": recall["fp32"] - recall[name]}

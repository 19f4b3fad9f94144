"""A published teacher into a checkpoint folder, only if it gives the embedding that an independent forward pass gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmkd.data.cache import open_picture
from dmkd.data.views import centre_view, to_unit
from dmkd.errors import CheckpointError, ConfigError, WeightsError
from dmkd.models.import_formats import FORMATS
from dmkd.models.import_network import Said, Taken
from dmkd.models.import_parity import TOLERANCE, Parity, compare
from dmkd.models.saved import read_info, save_model
from dmkd.space import nearest


@dataclass(frozen=True)
class Imported:
    """What was taken in."""

    folder: Path
    backbone: str
    dim: int
    resolution: int
    embedding_space: str
    parity: Parity
    peer: str
    """What it was compared with."""
    picture: str
    note: str

    @property
    def line(self) -> str:
        """The parity check in one line."""
        return (
            f"parity with {self.peer} on {self.picture} at {self.resolution} px: largest difference {self.parity.largest:.1e} "
            f"(at most {TOLERANCE:.0e}), cosine {self.parity.cosine:.7f}"
        )


def import_teacher(format_: str, source: str, folder: Path, said: Said | None = None, picture: Path | None = None) -> Imported:
    """Take `source` (a file, or for torchvision and timm the name of a published network) into a checkpoint folder.

    `picture` serves the parity check; without one it is a drawn scene. Nothing is written unless the check holds, and nothing of
    the file is run. Raises `ConfigError`, `WeightsError`, `ShapeError`, `DataError`, `CheckpointError`.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"unknown format {format_!r}: {nearest(format_, FORMATS)}")
    check_target(folder)
    _check_numbers(said or Said())
    shown = open_picture(picture) if picture else drawn_scene()
    taken = FORMATS[format_](Path(source), said or Said())
    size = taken.net.network.resolution
    parity = compare(own_embedding(taken, shown), taken.peer.embed(shown))
    if not parity.holds:
        raise WeightsError(
            f"{source}: the network gives another embedding than {taken.peer.what} (largest difference {parity.largest:.1e}, "
            f"at most {TOLERANCE:.0e} wanted; cosine {parity.cosine:.6f}): nothing was written; check --backbone and colours"
        )
    extra = {
        "crop_ratio": taken.crop_ratio,
        "imported": {"format": format_, "source": Path(source).name, "parity": parity.largest, "peer": taken.peer.what},
    }
    info = save_model(taken.net, folder, resolution=size, extra=extra)
    what = str(picture) if picture else "a drawn scene"
    net = taken.net
    space = str(info["embedding_space"])
    return Imported(folder, net.backbone.name, net.head.dim, size, space, parity, taken.peer.what, what, taken.note)


def _check_numbers(said: Said) -> None:
    """Raise `ConfigError` for numbers that no checkpoint may have, or that no picture could be prepared with."""
    if said.resolution and not 16 <= said.resolution <= 4096:
        raise ConfigError(f"--resolution {said.resolution}: wanted 16 to 4096 pixels")
    if said.crop_ratio and not 0.1 <= said.crop_ratio <= 1:
        raise ConfigError(f"--crop-ratio {said.crop_ratio:g}: wanted the crop's side over the short side, 0.1 to 1")
    if not all(map(math.isfinite, (*said.mean, *said.std))) or any(value <= 0 for value in said.std):
        raise ConfigError(f"--mean {said.mean} --std {said.std}: wanted finite numbers, and deviations above 0")


def check_target(folder: Path) -> None:
    """Raise `CheckpointError` unless `folder` is new, empty, or a checkpoint folder, and its path climbs nowhere."""
    if ".." in folder.parts or not folder.name:
        raise CheckpointError(f"--to {str(folder)!r}: wanted the path of a folder of its own, without '..'")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"--to {folder}: is a file; wanted a new folder")
    if any(folder.iterdir()):
        try:
            read_info(folder)
        except CheckpointError:
            raise CheckpointError(f"--to {folder}: holds other files, which would be lost; wanted a new folder") from None


def own_embedding(taken: Taken, picture: Image.Image) -> Tensor:
    """[D] as training and evaluation would embed `picture`: the test transform, then the network in evaluation mode."""
    view = centre_view(picture, taken.net.network.resolution, taken.crop_ratio, taken.net.preprocess.interpolation)
    net = taken.net.eval()
    with torch.no_grad():
        embedding: Tensor = net(torch.from_numpy(to_unit([view]))).embedding[0]
    net.train()
    return embedding


def drawn_scene(width: int = 640, height: int = 480) -> Image.Image:
    """A deterministic picture with what photographs have: shading, edges, coloured objects, texture at several scales, noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / height
    scene = np.stack([0.75 - 0.4 * y, 0.6 - 0.2 * y + 0.1 * x, 0.35 + 0.3 * x], axis=-1)
    for _ in range(24):
        centre, radius, colour = rng.random(2) * (width / height, 1), 0.03 + 0.15 * rng.random(), rng.random(3)
        inside = np.hypot(x - centre[0], (y - centre[1]) * rng.uniform(0.6, 1.6)) < radius
        scene[inside] = 0.25 * scene[inside] + 0.75 * colour
    for scale in (6, 24, 96):
        wave = np.sin(scale * (x * rng.random() + y * rng.random()) * 2 * np.pi)
        scene *= 1 + 0.12 * wave[..., None] * rng.random(3)
    scene += rng.normal(0, 0.02, scene.shape)
    return Image.fromarray((np.clip(scene, 0, 1) * 255).astype(np.uint8))

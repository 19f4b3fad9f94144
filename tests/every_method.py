"""Every method and every preset as a run of seconds: a tree of real pictures, and a network of 0.1 M parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmkd.config import Config
from dmkd.distill import METHODS, PRESETS
from dmkd.distill.base import Method
from dmkd.run import train_into
from dmkd.space import flatten, override
from tests.pictures import make_folder

CASES: dict[str, dict[str, Any]] = {name: {"method.name": name} for name in METHODS} | {
    name: {"method.preset": name} for name in PRESETS
}
"""Name of the method or the preset -> how a configuration chooses it."""

BASE: dict[str, Any] = {
    "data.name": "folder",
    "data.validation": 0.4,
    "student.backbone": "timm/test_efficientnet",
    "student.weights": "none",
    "student.dim": 8,
    "student.resolution": 32,
    "optim.lr": 1e-3,
    "optim.epochs": 2,
    "evaluation.k": [1],
}


def make_tree(folder: Path) -> Path:
    """12 classes of 4 pictures."""
    return make_folder(folder, classes=12, size=32, per_class=4)


def tiny(name: str, root: Path, teacher: Path | None = None, changes: dict[str, Any] | None = None) -> Config:
    """The configuration of a case, as small as the tree; `changes` on top of it."""
    changes = changes or {}
    config = override(Config(), {**CASES[name], **{key: value for key, value in changes.items() if key == "loss.name"}})
    rest = {key: value for key, value in changes.items() if key != "loss.name"}
    taught = {"teacher.checkpoint": str(teacher)} if teacher and config.method.teacher == "pretrained" else {}
    if config.method.stages:
        taught["teacher.resolution"] = BASE["student.resolution"]
    return override(config, {**BASE, "data.root": str(root), **taught, **shrunk(config.method), **rest})


def make_teacher(root: Path, folder: Path, *, resolution: int = 32, seed: int = 7) -> Path:
    """The checkpoint of the tiny network after an epoch by itself."""
    changes = {"student.resolution": resolution, "optim.epochs": 1, "seed": seed}
    for _ in train_into(tiny("metric_learning", root, changes=changes), folder):
        pass
    return folder / "checkpoint"


def shrunk(method: Method) -> dict[str, Any]:
    """What makes a method as small as the tree: few images a batch, two views, narrow heads, stages that the network has."""
    known, batches = set(flatten(method)), method.batches
    small: dict[str, Any] = {"batches.size": {"classes": 8, "plain": 4, "tuples": 3}[batches.kind], "batches.iterations": 3}
    if batches.images_per_class > 2:
        small["batches.images_per_class"] = 2
    if method.views.per_image > 2:
        small["views.per_image"] = 2
    if "dims" in known:
        small |= {"dims": [8 + 4 * place for place in range(len(flatten(method)["dims"]))], "feature_delay": 4}
    if "layers" in known:
        small |= {"layers": ["blocks.1", "blocks.2"], "teacher_layers": []}
    if "negative_count" in known:
        small["negative_count"] = 2
    return {f"method.{key}": value for key, value in small.items()}

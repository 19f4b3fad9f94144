"""One configuration into one folder, and back: what `dmkd train` and `dmkd evaluate` do without a tracker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmkd import config as configs
from dmkd.checkpoint import load_model, load_state, read_info, save_model, save_state
from dmkd.config import Config
from dmkd.data import LANDMARKS, Data
from dmkd.data.datasets import load_dataset
from dmkd.data.lineage import lineage
from dmkd.data.splits import split as split_parts
from dmkd.errors import ConfigError, DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.landmarks import LandmarkTests, landmark_evaluation
from dmkd.evaluation.matrix import Cell, cells, measure_cells
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.protocol import write_outcomes
from dmkd.models import Network
from dmkd.scoring import best_device
from dmkd.space import override
from dmkd.trainer import Epoch, fit


def train_into(config: Config, folder: Path, resume: bool = False) -> Iterator[Epoch]:
    """Train, keeping in `folder` the last state, the best checkpoint (by validation R@1), `metrics.jsonl` and outcomes."""
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        (folder / "metrics.jsonl").write_text("", encoding="utf-8")
    state = load_state(folder / "state") if resume else None
    metric = f"{selection_role(config)}/recall_at_1"
    best = (
        read_info(folder / "checkpoint")["extra"]["metrics"].get(metric) if state and (folder / "checkpoint").is_dir() else None
    )
    for epoch in fit(config, state):
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"epoch": epoch.number} | epoch.metrics) + "\n")
        if is_better(epoch, metric, best):
            best = epoch.metrics.get(metric)
            save_checkpoint(epoch, config, folder / "checkpoint")
            write_all_outcomes(epoch, config, folder / "evaluation")
        if epoch.number:
            save_state(epoch.state, folder / "state")
        yield epoch


def is_better(epoch: Epoch, metric: str, best: float | None) -> bool:
    """Whether this epoch's checkpoint replaces the one kept so far, whose `metric` was `best`.

    Without validation classes the last epoch counts, so every epoch does; an epoch that was not validated is never the best.
    """
    value = epoch.metrics.get(metric)
    if value is None:
        return epoch.training.parts.val is None
    return best is None or value > best


def selection_role(config: Config) -> str:
    """The role by which a method is chosen: `val_asymmetric` where the teacher embeds the gallery, else `val`."""
    return "val_asymmetric" if config.method.gallery == "teacher" else "val"


def save_checkpoint(epoch: Epoch, config: Config, folder: Path) -> None:
    """The student as a deployable folder: weights.safetensors, model.json (preprocessing, metrics), config.yaml."""
    extra: dict[str, Any] = {
        "metrics": {key: value for key, value in epoch.metrics.items() if key.startswith(("val", "test")) and "/" in key},
        "epoch": epoch.number,
        "method": config.method.label,
        "gallery": config.method.gallery,
        "crop_ratio": config.data.crop_ratio,
    } | ({"trained_on": lineage(epoch.training.parts)} if epoch.number else {})
    save_model(
        epoch.model,
        folder,
        resolution=config.student.resolution,
        extra=extra,
        files={"config.yaml": configs.to_yaml(config)},
    )


def write_all_outcomes(epoch: Epoch, config: Config, folder: Path) -> None:
    """`queries.parquet` of the role that judges the row (on test, if measured), `queries_<role>.parquet` of the others."""
    judged = selection_role(config)
    judged = judged.replace("val", "test") if "test" in epoch.outcomes else judged
    for role, outcomes in epoch.outcomes.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_outcomes(outcomes, folder / ("queries.parquet" if role == judged else f"queries_{role}.parquet"))


def evaluate_checkpoint(
    folder: Path,
    *,
    gallery: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    split: str = "test",
    resolutions: Sequence[int] = (),
    gallery_resolutions: Sequence[int] = (),
) -> dict[str, float]:
    """Metrics of a checkpoint folder on a part of a data set, by the same lines as the trainer's.

    `changes` override `data.*` and `evaluation.*` of the checkpoint's own config.yaml. Keys: `test/recall_at_1`; with `gallery`
    `test_asymmetric/...`; with `resolutions` (of the queries) `test_q48_g96/...`. With `gallery_resolutions` the whole matrix is
    measured: each resolution of the queries against each of these, in the checkpoint's own gallery, and in that of `gallery`.
    A landmark test set has `test/roxford5k_medium/map`, ..., at `evaluation.max_side`; resolutions are then longer sides.
    `split` is "val", "test" or "train". Counts no test look: see `dmkd.evaluation.looks`.
    """
    _check_asked(changes or {}, [*resolutions, *gallery_resolutions])
    network, info = load_model(folder)
    config = evaluation_config(folder, changes)
    device = best_device()
    student = Side(network.to(device).eval(), int(info["resolution"]))
    galleries = {False: student} if gallery is None or gallery_resolutions else {}
    if gallery is not None:
        wall, wall_info = load_model(gallery)
        galleries[True] = Side(wall.to(device).eval(), int(wall_info["resolution"]), "teacher")
    if config.data.name in LANDMARKS:
        sides = {asymmetric: replace(side, resolution=config.evaluation.max_side) for asymmetric, side in galleries.items()}
        side = replace(student, resolution=config.evaluation.max_side)
        found = _landmarks(config, list(cells(side, sides, resolutions, gallery_resolutions)), device)
    else:
        measure = measure_of(config.data, config.evaluation, split, device)
        found, _ = measure_cells(measure, split, list(cells(student, galleries, resolutions, gallery_resolutions)))
        found |= measure.part.skipped
    if resolutions or gallery_resolutions:
        return found
    return {re.sub(r"_q\d+_g\d+/", "/", key, count=1): value for key, value in found.items()}


def evaluation_config(folder: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """The configuration by which a checkpoint folder is measured: its own config.yaml with `changes`."""
    own = folder / "config.yaml"
    return override(configs.load(own) if own.is_file() else Config(), changes or {})


def _landmarks(config: Config, asked: Sequence[Cell], device: torch.device) -> dict[str, float]:
    """The scores of `evaluate_checkpoint` on a landmark test set, where a resolution is a picture's longer side."""
    tests = LandmarkTests(config.data, landmark_evaluation(config.data, config.evaluation), device)
    scores: dict[str, float] = {}
    for cell in asked:
        scores |= tests.measure(cell.role("test"), cell.queries, cell.gallery)[0]
    return scores


def _check_asked(changes: Mapping[str, Any], resolutions: Sequence[int]) -> None:
    foreign = [key for key in changes if not key.startswith(("data.", "evaluation."))]
    if foreign:
        raise ConfigError(
            f"{', '.join(foreign)}: a checkpoint is measured as it is; only data.* and evaluation.* can be set here"
        )
    for resolution in resolutions:
        override(Network(), {"resolution": resolution})


def measure_of(data: Data, evaluation: Evaluation, split: str, device: torch.device | None = None) -> Measure:
    """How the part "train", "val" or "test" of a data set is measured. Raises `DataError` where there is no such part."""
    parts = split_parts(load_dataset(data), data)
    part = getattr(parts, split)
    if part is None:
        raise DataError(
            f"data set {data.name!r} has no {split} part under this configuration: choose --split, or set data.validation"
        )
    return Measure(
        part, data, replace(evaluation, test=False), device or torch.device("cpu"), len(set(parts.train.labels.tolist()))
    )

"""One configuration into one folder, and back: what `dmkd train` and `dmkd evaluate` do without a tracker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmkd import config as configs
from dmkd.checkpoint import load_model, load_state, read_info, save_model, save_state
from dmkd.config import Config
from dmkd.data import Data
from dmkd.data.datasets import load_dataset
from dmkd.data.splits import split as split_parts
from dmkd.errors import ConfigError, DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.protocol import write_outcomes
from dmkd.models import Network
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
    }
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
) -> dict[str, float]:
    """Metrics of a checkpoint folder on a part of a data set, by the same lines as the trainer's.

    `changes` override `data.*` and `evaluation.*` of the checkpoint's own config.yaml. Keys: `test/recall_at_1`; with `gallery`
    `test_asymmetric/...`; with `resolutions` `test_q48_g96/...`.
    """
    _check_asked(changes or {}, resolutions)
    network, info = load_model(folder)
    own = folder / "config.yaml"
    config = override(configs.load(own) if own.is_file() else Config(), changes or {})
    measure = _measure(config.data, config.evaluation, split)
    network = network.to(measure.device).eval()
    trained = int(info["resolution"])
    wall, wall_resolution = network, trained
    if gallery is not None:
        wall, wall_info = load_model(gallery)
        wall, wall_resolution = wall.to(measure.device).eval(), int(wall_info["resolution"])
    hung = measure.embed(Side(wall, wall_resolution))
    scores: dict[str, float] = {}
    for resolution in resolutions or [trained]:
        same = gallery is None and resolution == wall_resolution
        queries = hung if same else measure.embed(Side(network, resolution))
        role = (
            split + ("_asymmetric" if gallery is not None else "") + (f"_q{resolution}_g{wall_resolution}" if resolutions else "")
        )
        scores |= {f"{role}/{metric}": value for metric, value in measure.compare(queries, hung)[0].items()}
    return scores


def _check_asked(changes: Mapping[str, Any], resolutions: Sequence[int]) -> None:
    foreign = [key for key in changes if not key.startswith(("data.", "evaluation."))]
    if foreign:
        raise ConfigError(
            f"{', '.join(foreign)}: a checkpoint is measured as it is; only data.* and evaluation.* can be set here"
        )
    for resolution in resolutions:
        override(Network(), {"resolution": resolution})


def _measure(data: Data, evaluation: Evaluation, split: str) -> Measure:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    part = getattr(split_parts(load_dataset(data), data), split)
    if part is None:
        raise DataError(
            f"data set {data.name!r} has no {split} part under this configuration: choose --split, or set data.validation"
        )
    return Measure(part, data, replace(evaluation, test=False), device)

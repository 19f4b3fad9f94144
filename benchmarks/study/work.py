"""One run of the study: an arm with its values and its seed, trained by `dmkd.trainer.fit` and measured; one record comes out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.arms import ARMS, EPOCHS, FALLS, FLATTER, LONGER, SMALL, TEACHER_ARM, Arm, longer

SPACED = ("none", "psd", "obd_sd")
"""Arms whose embedding space is described too (OBD-SD, Table 8), on the training images."""
SIGNS = "signs"
"""The data set that needs no files; anything else is a manifest."""


@dataclass(frozen=True)
class Stage:
    """One kind of run: `times` the epochs, with the values that the trials of the stage `tuned` chose (none: it is a trial)."""

    times: int = 1
    tuned: str = ""
    tested: bool = False
    """Trains on all training classes and looks at the test classes; else held-out training classes measure it."""
    points: int = 1
    """How often it is measured, at equal distances; more than once it is a curve."""
    falls: tuple[float, ...] = ()
    """Where in the plan the rate falls to a tenth; none: a cosine, as in the arm."""


STAGES = {
    "tune": Stage(),
    "final": Stage(tuned="tune", tested=True),
    "curve": Stage(tuned="tune", points=EPOCHS),
    "long": Stage(LONGER, "tune", tested=True),
    "long_curve": Stage(LONGER, "tune", points=EPOCHS),
    "flat_tune": Stage(LONGER),
    "flat": Stage(FLATTER, "flat_tune", tested=True, falls=FALLS),
    "flat_curve": Stage(FLATTER, "flat_tune", points=EPOCHS, falls=FALLS),
}


REFERENCE_STAGES = {"final": "reference", "long": "reference", "flat": "flat_reference"}
"""Finals of a plan -> the reference rows beside them. The flat plan has its own: a teacher may have been trained again for it."""


@dataclass(frozen=True)
class Job:
    """What one process does at a time; `stage`: one of `STAGES`, or of `REFERENCE_STAGES`."""

    arm: str
    stage: str
    trial: int
    seed: int
    values: tuple[tuple[str, float], ...] = ()

    @property
    def key(self) -> str:
        """Names the job among all; a job whose key has a record is not run again."""
        return f"{self.arm}/{self.stage}/{self.trial}/{self.seed}"


def single_thread() -> None:
    """Every run computes with one thread: its numbers do not depend on how many run at once."""
    import torch

    torch.set_num_threads(1)


def work(job: Job, root: str, folder: str) -> dict[str, Any]:
    """Run `job` on the manifest at `root`; teachers lie in `folder`. A run that fails gives a record with the reason."""
    from dmkd.errors import DmkdError

    started = time.monotonic()
    try:
        found = _reference(job, root, Path(folder)) if job.stage in REFERENCE_STAGES.values() else _train(job, root, Path(folder))
    except DmkdError as error:
        found = {"failed": str(error)}
    described = asdict(job) | {"values": dict(job.values)}
    return {"key": job.key} | described | found | {"seconds": round(time.monotonic() - started, 1)}


def teacher_folder(folder: Path, stage: str) -> Path:
    """The teacher that must not have seen the validation classes, or the one trained on all training classes."""
    return folder / ("teacher_final" if STAGES[stage].tested else "teacher_tune")


def where(root: str) -> dict[str, Any]:
    """A manifest, or the signs that dmkd renders itself: two drawings a class, so batches hold two of each."""
    return {"data.name": "signs"} if root == SIGNS else {"data.root": root}


def configuration(job: Job, root: str, folder: Path) -> Any:
    """The `Config` of a job: the arm, the data, the values of the trial, and the part it is measured on."""
    from dmkd.space import override

    arm: Arm = TEACHER_ARM if job.arm == "teacher" else ARMS[job.arm]
    changes: dict[str, Any] = where(root) | {"seed": job.seed} | dict(job.values)
    if arm.teacher:
        changes["teacher.checkpoint"] = str(teacher_folder(folder, job.stage))
    stage = STAGES[job.stage]
    if stage.times > 1:
        changes |= longer(arm, stage.times)
    if stage.falls:
        milestones = tuple(round(fall * stage.times * EPOCHS) for fall in stage.falls)
        changes |= {"optim.schedule": "steps", "optim.gamma": 0.1, "optim.milestones": milestones}
    if stage.tested:
        changes |= {"data.validation": 0.0, "evaluation.test": True}
    if stage.points > 1:
        changes["evaluation.every"] = stage.times * EPOCHS // stage.points
    return override(arm.config, changes)


def _train(job: Job, root: str, folder: Path) -> dict[str, Any]:
    from dmkd.run import save_checkpoint
    from dmkd.trainer import fit

    config = configuration(job, root, folder)
    curve = []
    for epoch in fit(config, device="cpu"):
        if "val/recall_at_1" in epoch.metrics:
            curve.append([epoch.number, epoch.metrics["val/recall_at_1"]])
    kept = {key: value for key, value in epoch.metrics.items() if key.startswith(("val", "test", "train/"))}
    found: dict[str, Any] = {"metrics": kept | epoch.training.model_costs}
    if STAGES[job.stage].points > 1:
        found["curve"] = curve
    if STAGES[job.stage].tested:
        found["hits"] = {role: _hits(outcomes) for role, outcomes in epoch.outcomes.items()}
        if job.arm in SPACED:
            found["space"] = _space(epoch)
    if job.arm == "teacher" and job.stage in ("tune", "final"):
        save_checkpoint(epoch, config, folder / "teachers" / f"{job.stage}-{job.trial}")
    return found


def _hits(outcomes: Any) -> list[list[int]]:
    """Of each class: how many queries, and how many of them have a first neighbour of their class."""
    classes, inverse = np.unique(outcomes.label, return_inverse=True)
    hits = np.bincount(inverse, weights=outcomes.first_hit == 1).astype(int)
    return [np.bincount(inverse, minlength=len(classes)).tolist(), hits.tolist()]


def _space(epoch: Any) -> dict[str, float]:
    from dmkd.evaluation.embedding_space import embedding_density, spectral_decay
    from dmkd.evaluation.measure import Measure, Side

    training = epoch.training
    measure = Measure(training.parts.train, training.config.data, training.config.evaluation, training.device)
    x = measure.embed(Side(training.student, training.resolution))
    return {"density": embedding_density(x, training.parts.train.labels), "spectral_decay": spectral_decay(x, drop=2)}


def _reference(job: Job, root: str, folder: Path) -> dict[str, Any]:
    """Networks that nothing is trained for: the untrained student, the teacher at its size, and at the student's size."""
    import torch

    from benchmarks.study.arms import BASE
    from dmkd.checkpoint import load_model
    from dmkd.data.datasets import load_dataset
    from dmkd.data.splits import split
    from dmkd.evaluation.measure import Measure, Side
    from dmkd.models.embedder import build_network
    from dmkd.models.registry import count_gflops, count_parameters
    from dmkd.space import override

    config = override(BASE, where(root) | {"data.validation": 0.0, "student.dim": 0, "student.frozen": []})
    part = split(load_dataset(config.data), config.data).test
    assert part is not None
    measure = Measure(part, config.data, config.evaluation, torch.device("cpu"))
    if job.arm == "untrained":
        network, size, wall = build_network(config.student).eval(), SMALL, None
    else:
        network, info = load_model(teacher_folder(folder, "final"))
        size, wall = (int(info["resolution"]), None) if job.arm == "teacher_row" else (SMALL, int(info["resolution"]))
    queries = measure.embed(Side(network, size))
    galleries = {"test": queries} | ({} if wall is None else {"test_asymmetric": measure.embed(Side(network, wall))})
    metrics: dict[str, float] = {}
    hits = {}
    for role, gallery in galleries.items():
        scores, outcomes = measure.compare(queries, gallery)
        metrics |= {f"{role}/{name}": value for name, value in scores.items()}
        hits[role] = _hits(outcomes)
    costs = {"model/gflops": count_gflops(network, size), "model/parameters": float(count_parameters(network))}
    return {"metrics": metrics | costs, "hits": hits}


def chosen(
    records: Mapping[str, Mapping[str, Any]], arm: str, trials: int, role: str, stage: str = "tune"
) -> dict[str, Any] | None:
    """The tuning record with the best validation mAP@R of an arm; None while trials are missing. Raises where all failed."""
    keys = [f"{arm}/{stage}/{trial}/0" for trial in range(trials)]
    if not all(key in records for key in keys):
        return None
    metric = f"{role}/mean_average_precision_at_r"
    alive = [records[key] for key in keys if "metrics" in records[key]]
    if not alive:
        raise RuntimeError(f"every trial of {arm} failed, the first with: {records[keys[0]]['failed']}")
    return dict(max(alive, key=lambda record: record["metrics"][metric]))

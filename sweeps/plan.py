"""What a sweep is going to do, decided before any cluster starts: the base, early stopping, the rows of the final stage."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from dmkd.config import Config, config_hash, from_dict, parse_assignments
from dmkd.data.batches import Batches, iterations_per_epoch
from dmkd.data.datasets import load_dataset
from dmkd.data.splits import Parts, split
from dmkd.distill.base import Plan
from dmkd.distill.metric_learning import MetricLearning
from dmkd.errors import SweepError
from dmkd.models import Teacher
from dmkd.optim import steps_per_epoch
from dmkd.space import Choice, override, to_dict
from sweeps.options import Options
from sweeps.space import Searched, Space, Values

FINAL: Values = {"data.validation": 0.0, "data.folds": 0, "data.fold": 0, "evaluation.test": True}
"""The final stage: all training classes, evaluated once on test."""

EVALUATE_ONLY: Values = {"optim.epochs": 0, "method": MetricLearning()}
"""A row that is measured as it stands."""


@dataclass(frozen=True)
class Definition:
    """A sweep as its script states it."""

    name: str
    base: Config
    space: Space = field(default_factory=dict)
    description: str = ""
    references: tuple[str, ...] = ("untrained", "undistilled", "teacher")
    points: tuple[Values, ...] = ()
    teacher: Config | None = None
    trials: int = 20
    seeds: int = 3
    finalists: int = 3
    sampler: str = "tpe"
    early_stopping: str = "auto"


@dataclass(frozen=True)
class Job:
    """One run of the shared trainer: a stable key, what it overrides in the base, and its own tags."""

    key: str
    values: Values
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """A configuration of the final stage and the seeds that it runs with."""

    label: str
    values: Values
    seeds: int
    reference: str = ""
    """untrained, undistilled or teacher: what the others are compared with."""
    id: str = ""
    """Its stable name where that is not the configuration's own: the teacher's row is that of the run which trained it."""


def configured(definition: Definition, options: Options) -> Definition:
    """The definition with the command line applied to the base (and, where it concerns the data, to the teacher)."""
    changes = parse_assignments(list(options.set))
    changes |= {"optim.epochs": options.epochs} if options.epochs is not None else {}
    place = {"data.root": os.path.abspath(options.data_root)} if options.data_root else {}
    shared = place | {key: value for key, value in changes.items() if key.startswith("data.")}
    return dataclasses.replace(
        definition,
        name=options.name or definition.name,
        base=override(definition.base, changes | place),
        teacher=override(definition.teacher, shared) if definition.teacher else None,
        trials=options.trials or definition.trials,
        seeds=options.seeds or definition.seeds,
    )


@dataclass(frozen=True)
class Facts:
    """What the data say about the base: its parts, and how long a run is."""

    parts: Parts
    final: Parts
    """The parts of the final stage: no validation classes."""
    fingerprint: str
    """Of the pictures."""
    plan: Plan


def find_facts(base: Config) -> Facts:
    """Read the data and check what a search needs of them. Raises `DataError`, with where it looked, and `SweepError`."""
    pictures = load_dataset(base.data)
    parts = split(pictures, base.data)
    if parts.val is None:
        raise SweepError("a search needs validation classes, but data.validation is 0: set it to 0.2, say")
    if parts.test is None:
        raise SweepError(f"data set {base.data.name!r} has no test classes, but the final stage reports on them")
    batches = iterations_per_epoch(parts.train, base.method.batches)
    final = split(pictures, dataclasses.replace(base.data, validation=0.0, folds=0, fold=0))
    return Facts(parts, final, pictures.fingerprint, Plan(base.optim.epochs, steps_per_epoch(batches, base.optim)))


def check_networks(definition: Definition) -> None:
    """Build each network once. Raises `WeightsError` or `ConfigError` where a name or the weights do not exist."""
    from dmkd.models.embedder import build_network

    for config in (definition.base, definition.teacher):
        if config is not None and not config.student.checkpoint:
            build_network(config.student)


def find_objective(base: Config, objective: str) -> str:
    """The metric to maximise: as typed, or recall at 1 in the role that the method is meant for."""
    role = "val_asymmetric" if base.method.gallery == "teacher" else "val"
    return objective or f"{role}/recall_at_1"


def grace_epochs(base: Config, plan: Plan, wanted: str) -> tuple[int | None, str]:
    """The first rung of early stopping (None: off) and a warning to print once.

    It lies beyond the method's ramp, `ready_after`. Raises `SweepError`, with the numbers, where early stopping was asked for
    explicitly and the plan is too short for it.
    """
    ready = max(1, base.method.ready_after(plan))
    if wanted == "none":
        return None, ""
    if ready < plan.epochs:
        return ready, ""
    why = f"{base.method.label} says little before epoch {ready} and {plan.epochs} {'is' if plan.epochs == 1 else 'are'} planned"
    if wanted == "asha":
        raise SweepError(f"--early-stopping asha: {why}: plan more than {ready} epochs, or use --early-stopping none")
    return None, f"early stopping is off: {why}"


def inactive(base: Config, plan: Plan) -> str:
    """A warning that names terms which can never become active in so short a run; empty if there are none."""
    terms = base.method.inactive_terms(plan)
    return f"{', '.join(terms)} of {base.method.label} can never become active within {plan.iterations} steps" if terms else ""


def gflops_refusal(searched: Searched, values: Values, bound: float | None) -> str:
    """Why a proposal is refused under --max-gflops; empty if it is not."""
    if bound is None:
        return ""
    student = override(searched.base, values).student
    cost = _gflops(student.backbone, student.resolution, student.dim, student.pooling)
    return (
        f"{student.backbone} at {student.resolution} px costs {cost:.2f} GFLOPs, above --max-gflops {bound:g}"
        if cost > bound
        else ""
    )


@cache
def _gflops(backbone: str, resolution: int, dim: int, pooling: str) -> float:
    from dmkd.models import Network
    from dmkd.models.embedder import build_network
    from dmkd.models.registry import count_gflops

    network = Network(backbone=backbone, weights="none", pooling=pooling, dim=dim, resolution=resolution)
    return float(count_gflops(build_network(network), resolution))


def bounded(searched: Searched, bound: float | None) -> Searched:
    """The space without resolutions or backbones that exceed the bound; the base's own stays, since trial 0 is the base.

    Where both are searched their pairs are refused one by one (`gflops_refusal`). Raises `SweepError` where nothing is left.
    """
    keys = [key for key in ("student.resolution", "student.backbone") if key in searched.space]
    if bound is None or len(keys) != 1:
        return searched
    key, own = keys[0], searched.base_values()[keys[0]]
    entry = searched.space[key]
    options = entry.options if isinstance(entry, Choice) else ()
    fits = [option for option in options if not gflops_refusal(searched, {key: option}, bound)]
    if options and not fits:
        raise SweepError(
            f"--max-gflops {bound:g}: nothing in {key} is left: {gflops_refusal(searched, {key: min(options)}, bound)}"
        )
    kept = tuple(option for option in options if option in fits or option == own)
    return dataclasses.replace(searched, space={**searched.space, key: Choice(kept)}) if options else searched


def settled(config: Config) -> Config:
    """Without the teacher that its method does not use, and 50 as 50.0 where a float is wanted: equal runs have equal names."""
    config = from_dict(to_dict(config))
    return config if config.method.teacher == "pretrained" else dataclasses.replace(config, teacher=Teacher())


def row_id(base: Config, values: Values) -> str:
    """The stable name of a configuration, whatever its seed and stage."""
    return config_hash(settled(override(base, values)))


def final_rows(definition: Definition, best: Mapping[str, Values], teacher: str) -> list[Row]:
    """Trial 0, the best by validation (label: values) and the reference rows, one of each configuration.

    `teacher` is the folder of the teacher's checkpoint, or empty.
    """
    base, seeds = definition.base, definition.seeds
    rows = [Row("trial 0", {}, seeds), *(Row(label, values, seeds) for label, values in best.items())]
    makers = {"undistilled": _undistilled, "untrained": _untrained, "teacher": _teacher}
    for name in definition.references:
        rows += makers[name](definition, seeds, teacher)
    unique: dict[str, Row] = {}
    for row in rows:
        first = unique.setdefault(row_id(base, row.values), row)
        unique[row_id(base, row.values)] = dataclasses.replace(first, reference=first.reference or row.reference)
    return list(unique.values())


def _undistilled(definition: Definition, seeds: int, teacher: str) -> list[Row]:
    """The same network and loss without a teacher, on the same augmentation and batches (one view of an image, no tuples)."""
    method = definition.base.method
    views = dataclasses.replace(method.views, per_image=1, coupled=True, mixup=0.0, teacher=True)
    plain = MetricLearning(views=views, batches=method.batches if method.batches.kind != "tuples" else Batches())
    return [Row("undistilled", {"method": plain}, seeds, "undistilled")]


def _untrained(definition: Definition, seeds: int, teacher: str) -> list[Row]:
    """The backbone's own pooled features: nothing is drawn at random, so one seed says it all."""
    return [Row("untrained", EVALUATE_ONLY | {"student.dim": 0}, 1, "untrained")]


def _teacher(definition: Definition, seeds: int, teacher: str) -> list[Row]:
    if not teacher or definition.teacher is None:
        return []
    student = dataclasses.replace(definition.teacher.student, checkpoint=teacher)
    rows = [Row("teacher", EVALUATE_ONLY | {"student": student}, 1, "teacher", row_id(definition.teacher, {}))]
    if definition.base.method.gallery == "teacher":
        # What a student has to beat: the teacher itself, queried at the student's resolution against its own gallery.
        small = dataclasses.replace(student, resolution=definition.base.student.resolution)
        rows.append(Row("teacher, student's resolution", {"optim.epochs": 0, "student": small}, 1, "teacher"))
    return rows


def final_jobs(definition: Definition, rows: list[Row]) -> list[Job]:
    """Every row with every seed."""
    first = definition.base.seed
    return [job(definition.base, row, first + offset) for row in rows for offset in range(row.seeds)]


def job(base: Config, row: Row, seed: int) -> Job:
    """One seed of a final row. Its key names the configuration, so that the same row is never run twice."""
    name = row_id(base, row.values)
    tags = {"dmkd.row": row.id or name, "dmkd.config_hash": row.id or name, "dmkd.label": row.label, "dmkd.stage": "final"}
    tags |= {"dmkd.reference": row.reference} if row.reference else {}
    return Job(f"final-{name}-seed{seed}", row.values | FINAL | {"seed": seed}, tags)

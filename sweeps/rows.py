"""The rows of the final stage: which configurations are trained on all training classes and looked at on test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from dmkd.checkpoint import read_info
from dmkd.config import Config, config_hash, from_dict
from dmkd.data.batches import Batches
from dmkd.distill.metric_learning import MetricLearning
from dmkd.models import Network, Teacher
from dmkd.space import build, override, to_dict
from sweeps.plan import Definition
from sweeps.space import Values

FINAL: Values = {"data.validation": 0.0, "data.folds": 0, "data.fold": 0, "evaluation.test": True}
"""The final stage: all training classes, evaluated once on test."""

EVALUATE_ONLY: Values = {"optim.epochs": 0, "method": MetricLearning()}
"""A row that is measured as it stands."""

BARE: Values = {"student.dim": 0, "student.projection": "linear", "student.head_init": "", "student.checkpoint": ""}
"""A network that is a backbone alone."""


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


def settled(config: Config) -> Config:
    """Without the teacher that its method does not use, and 50 as 50.0 where a float is wanted: equal runs have equal names."""
    config = from_dict(to_dict(config))
    return config if config.method.teacher == "pretrained" else dataclasses.replace(config, teacher=Teacher())


def row_id(base: Config, values: Values) -> str:
    """The stable name of a configuration, whatever its seed and stage."""
    return config_hash(settled(override(base, values)))


def teacher_jobs(definition: Definition) -> list[Job]:
    """The trainings of the sweep's own teacher: one, or with folds one a fold, which sees none of that fold's classes.

    Its folds are those of the students, whatever the teacher's configuration says.
    """
    assert definition.teacher is not None
    name, folds = row_id(definition.teacher, {}), definition.base.data.folds
    tags = {"dmkd.stage": "teacher", "dmkd.reference": "teacher", "dmkd.label": "teacher"}
    if definition.teacher.data.name != definition.base.data.name:
        tags["dmkd.data_fingerprint"] = ""  # not looked at: the sweep's is that of other pictures
    if not folds:
        return [Job(f"teacher-{name}", {}, tags)]
    same = {f"data.{key}": getattr(definition.base.data, key) for key in ("folds", "split_seed", "validation")}
    return [Job(f"teacher-{name}-fold{fold}", same | {"data.fold": fold}, tags) for fold in range(folds)]


def final_rows(definition: Definition, best: Mapping[str, Values], teacher: str, beyond: bool = False) -> list[Row]:
    """Trial 0, the best by validation (label: values) and the reference rows, one of each configuration.

    `teacher` is the folder of the teacher's checkpoint, or empty; `beyond`: trial 0 costs more than --max-gflops allows, so it is
    a reference and no candidate.
    """
    base, seeds = definition.base, definition.seeds
    rows = [Row("trial 0", {}, seeds, "paper" if beyond else ""), *(Row(label, values, seeds) for label, values in best.items())]
    makers = {"undistilled": _undistilled, "untrained": _untrained, "teacher": _teacher}
    for name in definition.references:
        rows += makers[name](definition, seeds, teacher)
    unique: dict[str, Row] = {}
    for row in rows:
        first = unique.setdefault(row_id(base, row.values), row)
        unique[row_id(base, row.values)] = dataclasses.replace(first, reference=first.reference or row.reference)
    return list(unique.values())


def _undistilled(definition: Definition, seeds: int, teacher: str) -> list[Row]:
    """The same network and loss without a teacher: same augmentation (one view of an image), same batches, but of pairs."""
    method = definition.base.method
    views = dataclasses.replace(method.views, per_image=1, coupled=True, mixup=0.0, teacher=True)
    plain = MetricLearning(views=views, batches=_paired(method.batches, method.views.per_image))
    start = {"student.checkpoint": ""} if definition.base.student.checkpoint == "teacher" else {}
    return [Row("undistilled", {"method": plain} | start, seeds, "undistilled")]


def _paired(batches: Batches, views: int) -> Batches:
    """Batches for a loss that wants two pictures of a class, which plain ones hardly ever have.

    Of plain batches: as many steps, and where their number is given as many pictures a step as the method's views are.
    """
    if batches.kind == "tuples":
        return Batches()
    if batches.kind == "classes":
        return batches
    size = batches.size * (views if batches.iterations else 1)
    # Without replacement and a number of steps an epoch would be one pass over the classes, not over the pictures.
    more = {"images_per_class": 2, "size": size + size % 2, "replacement": not batches.iterations}
    return dataclasses.replace(batches, kind="classes", **more)  # type: ignore[arg-type]


def _untrained(definition: Definition, seeds: int, teacher: str) -> list[Row]:
    """The backbone's own pooled features: nothing is drawn at random, so one seed says it all."""
    return [Row("untrained", EVALUATE_ONLY | BARE, 1, "untrained")]


def _teacher(definition: Definition, seeds: int, teacher: str) -> list[Row]:
    if not teacher or definition.base.method.teacher != "pretrained":
        return []
    student, name = _teacher_network(definition, teacher)
    rows = [Row("teacher", EVALUATE_ONLY | {"student": student}, 1, "teacher", name)]
    if definition.base.method.gallery == "teacher":
        # What a student has to beat: the teacher itself, queried at the student's resolution against its own gallery.
        small = dataclasses.replace(student, resolution=definition.base.student.resolution)
        rows.append(Row("teacher, student's resolution", {"optim.epochs": 0, "student": small}, 1, "teacher"))
    return rows


def _teacher_network(definition: Definition, checkpoint: str) -> tuple[Network, str]:
    """The teacher as a student to be measured, and its row: that of the run which trained it, where this sweep did."""
    if definition.teacher is not None:
        return dataclasses.replace(definition.teacher.student, checkpoint=checkpoint), row_id(definition.teacher, {})
    info = read_info(checkpoint)
    resolution = definition.base.teacher.resolution or int(info["resolution"])
    return dataclasses.replace(build(Network, info["network"]), checkpoint=checkpoint, resolution=resolution), ""


def final_jobs(definition: Definition, rows: list[Row]) -> list[Job]:
    """Every row with every seed."""
    first = definition.base.seed
    told = definition.row_tags
    return [job(definition.base, row, first + offset, told.get(row.label, {})) for row in rows for offset in range(row.seeds)]


def job(base: Config, row: Row, seed: int, more: Mapping[str, str]) -> Job:
    """One seed of a final row. Its key names the configuration, so that the same row is never run twice."""
    name = row_id(base, row.values)
    tags = {"dmkd.row": row.id or name, "dmkd.config_hash": row.id or name, "dmkd.label": row.label, "dmkd.stage": "final"}
    tags |= {"dmkd.reference": row.reference} if row.reference else {}
    tags |= more
    return Job(f"final-{name}-seed{seed}", row.values | final_values(base) | {"seed": seed}, tags)


def final_values(base: Config) -> Values:
    """`FINAL` for this base: landmark networks keep the validation pictures that their data set brings along."""
    return {"evaluation.test": True} if base.evaluation.landmarks else FINAL

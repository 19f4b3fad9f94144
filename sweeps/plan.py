"""What a sweep is going to do, decided before any cluster starts: the base, the data, early stopping, the bound on cost."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from dmkd.config import Config, parse_assignments
from dmkd.data.batches import iterations_per_epoch
from dmkd.data.datasets import load_dataset
from dmkd.data.splits import Parts, split
from dmkd.data.staging import is_address
from dmkd.distill.base import Plan
from dmkd.errors import SweepError
from dmkd.optim import steps_per_epoch
from dmkd.space import Choice, override
from sweeps.objectives import Objectives, read_objectives
from sweeps.options import Options
from sweeps.space import Searched, Space, Values


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
    dataset: str = ""
    """What the data are where a general reader reads them; empty: what `data.name` says."""
    teacher_name: str = ""
    """Name of the teacher in the registry; empty: it is this sweep's own."""
    row_tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further tags of the final rows, by label: of trial 0, the printed row that it is."""
    command: str = ""
    """What trains the teacher that is missing."""


def configured(definition: Definition, options: Options) -> Definition:
    """The definition with the command line applied to the base (and, where it concerns the data, to the teacher)."""
    changes = parse_assignments(list(options.set))
    changes |= {"optim.epochs": options.epochs} if options.epochs is not None else {}
    changes |= {"data.folds": options.folds} if options.folds is not None else {}
    place = {"data.root": _absolute(options.data_root)} if options.data_root else {}
    shared = place | {key: value for key, value in changes.items() if key.startswith("data.")}
    return dataclasses.replace(
        definition,
        name=options.name or definition.name,
        base=(base := override(definition.base, changes | place)),
        # A teacher that is given is not trained.
        teacher=override(definition.teacher, shared) if definition.teacher and not base.teacher.checkpoint else None,
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


def _absolute(root: str) -> str:
    return root if is_address(root) else os.path.abspath(root)


def find_facts(base: Config) -> Facts:
    """Read the data and check what a search needs of them. Raises `DataError`, with where it looked, and `SweepError`."""
    pictures = load_dataset(base.data)
    parts = split(pictures, base.data)
    if parts.val is None:
        raise SweepError("a search needs validation classes, but data.validation is 0: set it to 0.2, say")
    if parts.test is None and not base.evaluation.landmarks:
        raise SweepError(f"data set {base.data.name!r} has no test classes, but the final stage reports on them")
    batches = iterations_per_epoch(parts.train, base.method.batches)
    whole = base.data if base.evaluation.landmarks else dataclasses.replace(base.data, validation=0.0, folds=0, fold=0)
    final = split(pictures, whole)
    return Facts(parts, final, pictures.fingerprint, Plan(base.optim.epochs, steps_per_epoch(batches, base.optim)))


def check_networks(definition: Definition) -> None:
    """Build each network once. Raises `WeightsError` or `ConfigError` where a name or the weights do not exist."""
    from dmkd.models.embedder import build_network

    for config in (definition.base, definition.teacher):
        if config is not None and not config.student.checkpoint:
            build_network(config.student)


def find_objectives(base: Config, given: Sequence[str]) -> Objectives:
    """What to optimise: as typed; where no metric was, recall at 1 in the role that the method is meant for."""
    role = "val_asymmetric" if base.method.gallery == "teacher" else "val"
    found = read_objectives(given)
    return found if found.accuracy else dataclasses.replace(found, accuracy=f"{role}/recall_at_1")


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
    if wanted in ("asha", "median"):
        raise SweepError(f"--early-stopping {wanted}: {why}: plan more than {ready} epochs, or use --early-stopping none")
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
    cost = _gflops(student.backbone, student.resolution, student.dim, student.projection)
    return (
        f"{student.backbone} at {student.resolution} px costs {cost:.2f} GFLOPs, above --max-gflops {bound:g}"
        if cost > bound
        else ""
    )


@cache
def _gflops(backbone: str, resolution: int, dim: int, projection: str) -> float:
    from dmkd.models import Network
    from dmkd.models.embedder import build_network
    from dmkd.models.registry import count_gflops

    network = Network(backbone=backbone, weights="none", dim=dim, projection=projection, resolution=resolution)
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

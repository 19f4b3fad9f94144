"""Everything about a sweep that can be known, and refused, before a cluster starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dmkd.checkpoint import read_info
from dmkd.config import Config
from dmkd.data.splits import Parts
from dmkd.errors import SweepError
from dmkd.evaluation.protocol import protocol_fingerprint
from sweeps.objectives import Objectives
from sweeps.options import Options
from sweeps.pieces import Piece, make_pieces
from sweeps.places import Places, tracking_address
from sweeps.plan import (
    Definition,
    Facts,
    bounded,
    check_networks,
    find_facts,
    find_objectives,
    gflops_refusal,
    grace_epochs,
    inactive,
)
from sweeps.rows import final_rows
from sweeps.space import Searched, Values
from sweeps.study import check_sampler
from sweeps.teachers import check_folds, check_training
from sweeps.warm import warm_points


@dataclass(frozen=True)
class Prepared:
    """A checked definition and what follows from it."""

    definition: Definition
    facts: Facts
    searched: Searched
    objectives: Objectives
    pieces: tuple[Piece, ...]
    """The runs of a trial: folds and seeds."""
    sampler: str
    stopping: str
    """The rule of early stopping: asha or median."""
    grace: int | None
    """First rung of early stopping, epochs; None: off."""
    points: list[Values]
    """Known points after trial 0, in the order in which they are tried."""
    tags: dict[str, str]
    """Tags of every run of the search."""
    final_tags: dict[str, str]
    """Tags of every run of the final stage, which has its own split."""
    warnings: list[str]

    @property
    def most(self) -> float:
        """More trials would say nothing new: the points of a grid, or trial 0 alone where nothing is searched."""
        if self.sampler != "grid" and self.searched.space:
            return math.inf
        return 1 + len(self.points)

    @property
    def objective(self) -> str:
        """The validation metric that is maximised."""
        return self.objectives.accuracy

    @property
    def experiment(self) -> str:
        """The MLflow experiment: data set and sweep."""
        return f"{self.definition.base.data.name}/{self.definition.name}"

    def summary(self, places: Places) -> list[str]:
        """The plan in lines for a person."""
        base, plan, parts = self.definition.base, self.facts.plan, self.facts.parts
        rows = [
            row.label for row in final_rows(self.definition, {}, "yes" if self.definition.teacher else base.teacher.checkpoint)
        ]
        count = {
            name: len(part.classes) for name, part in (("train", parts.train), ("val", parts.val), ("test", parts.test)) if part
        }
        stopping = f"{self.stopping}, after epoch {self.grace} at the earliest" if self.grace else "off"
        each = f" of {len(self.pieces)} runs each ({base.data.folds or 'no'} folds)" if len(self.pieces) > 1 else ""
        over = ", ".join(self.searched.space) or "nothing: trial 0 alone"
        return [
            f"{self.definition.name}: {base.method.label} on {base.data.name}"
            f" ({', '.join(f'{number} {name}' for name, number in count.items())} classes),"
            f" {plan.epochs} epochs of {plan.iterations_per_epoch} steps",
            f"  search: {min(self.definition.trials, self.most)} trials{each} by {self.sampler} for {self.objectives},"
            f" over {over}; early stopping {stopping}",
            f"  final: {', '.join(rows)} and the best {self.definition.finalists} by validation,"
            f" {self.definition.seeds} seeds each, once on test",
            f"  results: {places.shown}; runs: {places.tracking_uri}, experiment {self.experiment}",
            *(f"  note: {warning}" for warning in self.warnings if warning),
        ]


def prepare(definition: Definition, options: Options) -> Prepared:
    """Check the data, the space, the networks and the options against each other.

    Raises `DataError`, `WeightsError`, `ConfigError` or `SweepError`, each one line with what to do.
    """
    base = definition.base
    if base.method.teacher == "pretrained" and definition.teacher is None:
        if not base.teacher.checkpoint:
            raise SweepError(f"{base.method.label} learns from a pretrained teacher: give one by --set teacher.checkpoint=FOLDER")
        read_info(base.teacher.checkpoint)
    if base.evaluation.test:
        raise SweepError("evaluation.test=true in a search: test classes are looked at once, by the final stage; leave it out")
    sampler, objectives = options.sampler or definition.sampler, find_objectives(base, options.objective)
    searched = bounded(Searched(base, definition.space), options.max_gflops)
    check_sampler(sampler, searched, len(objectives.names))
    warm, told_warm = _warm(searched, options, objectives.accuracy)
    points = [*definition.points, *warm, *(searched.grid(base.seed) if sampler == "grid" else ())]
    for point in points:
        searched.check(point)
    points = [searched.completed(point) for point in points]
    facts = find_facts(base)
    wanted = options.early_stopping or definition.early_stopping
    grace, warning = grace_epochs(base, facts.plan, wanted)
    check_networks(definition)
    paper = gflops_refusal(searched, {}, options.max_gflops)
    told = check_training(base.teacher.checkpoint, facts.parts, definition.command) if base.teacher.checkpoint else ""
    if base.teacher.checkpoint:  # one that is given has to have seen the classes of no fold
        check_folds(base, [base.teacher.checkpoint] * base.data.folds, definition.command)
    warnings = [
        told,
        told_warm,
        warning,
        inactive(base, facts.plan),
        f"trial 0 stays, as a reference, though {paper}" if paper else "",
    ]
    tags = {
        "dmkd.sweep": definition.name,
        "dmkd.objective": objectives.accuracy,
        "dmkd.data_fingerprint": facts.fingerprint,
        "dmkd.protocol": protocol_of(base, facts.parts),
    }
    final_tags = tags | {"dmkd.protocol": protocol_of(base, facts.final)}
    known = [point for place, point in enumerate(points) if point != searched.base_values() and point not in points[:place]]
    pieces, rule = make_pieces(base, options.search_seeds), "asha" if wanted == "auto" else wanted
    return Prepared(definition, facts, searched, objectives, pieces, sampler, rule, grace, known, tags, final_tags, warnings)


def _warm(searched: Searched, options: Options, objective: str) -> tuple[list[Values], str]:
    """The points of `--warm-start` and a note; none where it was not asked for."""
    if not options.warm_start:
        return [], ""
    return warm_points(searched, options.warm_start, tracking_address(options), objective)


def protocol_of(base: Config, parts: Parts) -> str:
    """The fingerprint of what a configuration is measured by on these parts."""
    return protocol_fingerprint(
        parts.fingerprint,
        base.data.protocol,
        average_precision=base.evaluation.average_precision,
        quality=" ".join(filter(None, (parts.quality(base.data, base.method.gallery), base.evaluation.protocol))),
    )

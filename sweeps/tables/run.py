"""A table being run: the networks that others need, then every row with every seed; what is done stays done."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dmkd.config import Config
from dmkd.data import Data
from dmkd.data.splits import Parts
from dmkd.errors import SweepError
from dmkd.models import Network
from dmkd.space import override
from sweeps.driver import About, Driver
from sweeps.options import Options
from sweeps.packing import cost
from sweeps.papers import recipes
from sweeps.places import Places
from sweeps.record import Record
from sweeps.rows import EVALUATE_ONLY, Job
from sweeps.tables.entries import Entry, Rows
from sweeps.tables.standing import tags as standing
from sweeps.teachers import keep_teacher, model_alias, model_name
from sweeps.trial import read_done
from tracking.comparison import comparison, render_comparison
from tracking.reading import load_runs
from tracking.show import show


@dataclass(frozen=True)
class Trainable:
    """An entry with what its data say."""

    entry: Entry
    parts: Parts
    protocol: str
    fingerprint: str


@dataclass
class Planned:
    """A table that was checked against the data and the teachers that are there."""

    about: About
    rows: Rows
    trainable: dict[str, Trainable]
    """By the entry's id, the needed ones included."""
    seeds: int
    stage: str
    """final, or search where the rows are judged on validation classes."""
    found: dict[str, str] = field(default_factory=dict)
    """Entry id -> checkpoint folder, of the networks that were given or registered."""
    notes: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    """Metrics that boards are printed of."""


class TableRun(Driver):
    """A table on a cluster."""

    def __init__(self, planned: Planned, options: Options, places: Places, record: Record, commit: str) -> None:
        super().__init__(planned.about, options, places, record, commit)
        self.planned, self.checkpoints = planned, dict(planned.found)

    @property
    def tags(self) -> dict[str, str]:
        """The sweep's name and what its rows are chosen by."""
        return {"dmkd.sweep": self.about.name, "dmkd.objective": self.about.objective}

    @property
    def workers(self) -> int:
        """The most that a row asks for."""
        return max(entry.config.data.workers for entry in self.planned.rows.entries)

    @property
    def data(self) -> dict[str, tuple[Data, str]]:
        """Those of the rows and of what they need, each pair of a name and a place once."""
        held = {(one.entry.config.data.name, one.entry.config.data.root): one for one in self.planned.trainable.values()}
        return {f"{name} {root}".strip(): (one.entry.config.data, one.fingerprint) for (name, root), one in held.items()}

    @property
    def teachers(self) -> set[str]:
        """Those that were given, found or trained."""
        return {entry.config.teacher.checkpoint for entry in self.planned.rows.entries} | set(self.checkpoints.values())

    def describe(self) -> str:
        """The rows and what each needs."""
        told = {entry.label: {"id": entry.id, "published": list(entry.keys)} for entry in self.planned.rows.entries}
        return str(yaml.safe_dump(told, sort_keys=False))

    def params(self) -> dict[str, object]:
        """Params of the parent run."""
        return {"rows": len(self.planned.rows.entries), "seeds": self.planned.seeds}

    def costs(self) -> dict[str, float]:
        """Metrics of the parent run."""
        return {"sweep/failed": float(len(self.failures)), "sweep/wall_seconds": time.monotonic() - self.started}

    def stages(self) -> bool:
        """Needed networks first; whether everything ended."""
        needed = [entry for entry in self.planned.rows.needed if entry.id not in self.checkpoints]
        if not self._run("teachers", [(self._job(entry, entry.config.seed), entry) for entry in needed], stop=True):
            return False
        for entry in needed:
            self._keep(entry)
        ended = self._rows()
        for entry in self.planned.rows.entries:
            if entry.id not in self.checkpoints and teaches(entry) and self._checkpoint(entry).is_dir():
                self._keep(entry)
        return ended

    def _rows(self) -> bool:
        """Every row with every seed; whether all ended."""
        seeds = range(self.planned.seeds)
        rows = [(self._job(entry, entry.config.seed), entry) for entry in self.planned.rows.untrained]
        rows += [(self._job(entry, entry.config.seed + seed), entry) for seed in seeds for entry in self.planned.rows.entries]
        jobs = list({job.key: (job, entry) for job, entry in rows}.values())
        waiting = [job for job, _ in jobs if read_done(self.places.trials / job.key) is None]
        self.pack(lambda: _largest(waiting), len(waiting))
        return self._run("rows", jobs)

    def report(self) -> None:
        """Every printed number beside the measured one, a board a role, and what to type next."""
        uri, experiment = self.places.tracking_uri, self.about.experiment
        runs = load_runs(uri, experiment)
        if held := comparison(runs):
            print(f"\n{render_comparison(held)}")
        for report in [one for one in self.planned.reports[1:] if f"metrics.{one}" in runs.columns]:
            print(f"\n{show(uri, experiment, select_by=report.replace('test', 'val', 1), report=report)}")
        super().report()

    def _run(self, stage: str, jobs: list[tuple[Job, Entry]], stop: bool = False) -> bool:
        """Run jobs in groups of one selection metric; whether all ended. `stop`: raise `SweepError` where one failed."""
        ended: dict[str, Any] = {}
        for objective in dict.fromkeys(entry.objective for _, entry in jobs):
            group = [job for job, entry in jobs if entry.objective == objective]
            ended |= self.jobs(stage, group, self.shared(objective=objective), stop or self.options.rerun_failed)
        failed = [f"{entry.label}: {ended[job.key]['reason']}" for job, entry in jobs if _failed(ended, job)]
        if failed and stop:
            raise SweepError(f"a network that others need failed: {failed[0]}")
        self.failures += failed
        return all(job.key in ended for job, _ in jobs)

    def _job(self, entry: Entry, seed: int) -> Job:
        """One seed of a row; its key names the configuration, so that nothing is trained twice under this name.

        A network that was given, or found in the registry, is measured as it is, once.
        """
        trained = self.planned.trainable[entry.id]
        marks = {
            "dmkd.row": entry.id,
            "dmkd.config_hash": entry.id,
            "dmkd.label": entry.label,
            "dmkd.stage": self.planned.stage,
            "dmkd.protocol": trained.protocol,
            "dmkd.data_fingerprint": trained.fingerprint,
        } | standing(entry, trained.parts)
        marks |= {"dmkd.reference": entry.reference} if entry.reference else {}
        if entry.id in self.planned.found:
            values = entry.values({}) | EVALUATE_ONLY | {"student": self._found(entry)}
            return Job(f"{self.planned.stage}-{entry.id}-found", values, marks)
        return Job(self._key(entry, seed), entry.values(self.checkpoints) | {"seed": seed}, marks)

    def _found(self, entry: Entry) -> Network:
        return replace(entry.config.student, checkpoint=self.planned.found[entry.id])

    def _key(self, entry: Entry, seed: int) -> str:
        return f"{self.planned.stage}-{entry.id}-seed{seed}"

    def _checkpoint(self, entry: Entry) -> Path:
        place = self.places.trials / self._key(entry, entry.config.seed) / "checkpoint"
        self.places.storage.fetch(str(place))
        return place

    def _keep(self, entry: Entry) -> None:
        """A network that others need: where it lies, and its name in the registry."""
        key = self._key(entry, entry.config.seed)
        self.checkpoints[entry.id] = str(self._checkpoint(entry))
        name, alias = named(self.planned.trainable[entry.id])
        note = keep_teacher(name, alias, self.about.experiment, f"{self.record.id}/{key}", self.places.tracking_uri)
        if note:
            print(f"  note: {note}", file=sys.stderr)


@cache
def _teachers() -> frozenset[str]:
    """Keys of the rows whose networks other rows learn or start from, in any table."""
    return frozenset(key for made in recipes().values() for key in (made.teacher, made.start) if key)


def teaches(entry: Entry) -> bool:
    """Whether the network is one that other rows, of this table or another, need."""
    return bool(_teachers() & set(entry.keys))


def named(trained: Trainable) -> tuple[str, str]:
    """Name and alias of a network in the registry."""
    return model_name(trained.entry.source), model_alias(trained.entry.id, trained.parts.fingerprint)


def own_checkpoint(places: Places, stage: str, entry: Entry) -> str:
    """Where this very sweep trained the entry, if it did."""
    folder = Path(places.trials / f"{stage}-{entry.id}-seed{entry.config.seed}")
    places.storage.refresh(folder)
    done = read_done(folder)
    if done is not None:
        places.storage.fetch(str(folder / "checkpoint"))
    return str(folder / "checkpoint") if done is not None and done["status"] == "finished" else ""


def _largest(jobs: Sequence[Job]) -> Config | None:
    """The training that takes most of a card; None where nothing is trained."""
    trained = [config for job in jobs if (config := override(Config(), job.values)).optim.epochs]
    return max(trained, key=cost, default=None)


def _failed(ended: Mapping[str, Mapping[str, str]], job: Job) -> bool:
    return ended.get(job.key, {}).get("status") == "failed"

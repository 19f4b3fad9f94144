"""What every kind of sweep has in common: a parent run, a cluster, jobs on it, and the board at the end."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmkd.config import Config
from dmkd.data import Data
from sweeps.checks.nodes import check_nodes
from sweeps.cluster import Resources, connect, disconnect, find_resources, run_jobs
from sweeps.naming import source_tags
from sweeps.options import AUTO, Options
from sweeps.packer import Packer
from sweeps.places import Places
from sweeps.record import Record
from sweeps.rows import Job
from sweeps.signals import Terminated, terminable
from sweeps.trial import Shared
from sweeps.unfit import forget
from sweeps.watch import silence
from sweeps.weights import Store
from tracking.errors import TrackingError
from tracking.places import default_uri
from tracking.reaping import reap
from tracking.runs import start_run, sync
from tracking.show import show


@dataclass(frozen=True)
class About:
    """What a sweep is called, and what its board is asked for."""

    experiment: str
    name: str
    description: str
    objective: str
    """The validation metric that rows are chosen by."""
    report: str | None = None
    """The test metric of the board; None: the objective's name on test."""


class Driver(ABC):
    """One sweep being run. `failures` says, in words, what failed."""

    def __init__(self, about: About, options: Options, places: Places, record: Record, commit: str) -> None:
        self.about, self.options, self.places, self.record = about, options, places, record
        self.started = time.monotonic()
        self.failures: list[str] = []
        self.source = source_tags(Path(sys.argv[0]).resolve(), commit)
        self.resources = Resources(1, 0.0, 1)
        self.parent: str | None = None
        self.packer = Packer(record)
        self.weights = Store()
        self.id = uuid.uuid4().hex[:12]

    @property
    @abstractmethod
    def tags(self) -> dict[str, str]:
        """Tags of the parent run, and of every run that has none of its own."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Loading processes of a trial."""

    @property
    def data(self) -> dict[str, tuple[Data, str]]:
        """{data set: (what trials read, its fingerprint)}, looked at on each node of a cluster of several."""
        return {}

    @property
    def teachers(self) -> set[str]:
        """Checkpoint folders that trials learn from."""
        return set()

    @abstractmethod
    def stages(self) -> bool:
        """Everything that is not done; whether all of it ended."""

    @abstractmethod
    def describe(self) -> str:
        """What the sweep was asked for, as YAML."""

    @abstractmethod
    def params(self) -> dict[str, object]:
        """Params of the parent run."""

    @abstractmethod
    def costs(self) -> dict[str, float]:
        """Metrics of the parent run."""

    def run(self) -> bool:
        """Every stage that is not done; whether the sweep is finished (it is not after Ctrl-C)."""
        self._reap()
        forget(self.places.folder, self.places.storage)
        run = start_run(
            self.places.tracking_uri,
            self.about.experiment,
            self.about.name,
            key=f"{self.record.id}/sweep",
            params=self.params(),
            tags=self.tags | self.source | {"dmkd.stage": "sweep", "mlflow.note.content": self.about.description.strip()},
            spool=self.places.spool,
        )
        self.parent, self.packer.run = run.id, run
        finished = started = False
        try:
            run.log_text(self.describe(), "config.yaml")
            started = connect()
            check_nodes(self.places, self.data)
            with terminable():
                self.resources = self._resources()
                finished = self.stages()
            run.log(self.costs(), step=0)
        except Terminated:  # seconds are left: what is on disk is resumable, and the next look closes what is still open
            run.finish("KILLED", "terminated (SIGTERM): --resume goes on", patience=1.0)
            raise
        except BaseException as error:
            run.finish("FAILED" if isinstance(error, Exception) else "KILLED", f"{type(error).__name__}: {error}")
            raise
        finally:
            if not finished:
                disconnect(started)
            # A worker that was killed, in the middle of an epoch say, has not closed its run.
            sync(self.places.spool)
        run.finish("FINISHED" if finished else "KILLED", "" if finished else "interrupted: --resume goes on")
        if finished:
            self.record.finished = True
            self.record.save()
        return finished

    def _resources(self, share: float | None = None) -> Resources:
        """What a trial takes: as asked for, or `share` of a card; `auto` is a whole one until `pack` knows better."""
        asked = self.options.gpus_per_trial
        return find_resources(share if isinstance(asked, str) else asked, self.workers, self.options.max_concurrent)

    def pack(self, largest: Callable[[], Config | None], runs: float) -> None:
        """With `--gpus-per-trial auto`: `runs` trials, of which `largest` takes most, are packed as the probe found best."""
        if self.options.gpus_per_trial == AUTO and runs:
            self.resources = self._resources(self.packer.share(largest(), runs, self.workers, self.options.max_concurrent))

    def _reap(self) -> None:
        """What an earlier driver left RUNNING is closed before its trials go on."""
        try:
            sync(self.places.spool)
            reap(self.places.tracking_uri, self.about.experiment)
        except TrackingError as error:
            print(f"  note: {error}", file=sys.stderr)

    def show_report(self) -> None:
        """`report`, or where the results wait while the tracker is away."""
        try:
            self.report()
        except TrackingError as error:
            where = f"its runs wait in {self.places.spool}"
            print(f"{self.about.name}: finished, but {error}; {where}: dmkd sync, then dmkd leaderboard", file=sys.stderr)

    def report(self) -> None:
        """The leaderboard, and what to type next."""
        uri, experiment = self.places.tracking_uri, self.about.experiment
        print(f"\n{show(uri, experiment, select_by=self.about.objective, report=self.about.report)}\n")
        there = "" if uri == default_uri() else f" --tracking-uri {uri}"
        active = os.environ.get("VIRTUAL_ENV") or sys.prefix == sys.base_prefix
        lines = [] if active else [f"source {os.path.relpath(sys.prefix)}/bin/activate"]
        lines += [f"dmkd leaderboard --experiment {experiment}{there}", f"dmkd pull 1 --to best-student{there}"]
        lines += [f"dmkd report --experiment {experiment}{there}        # one page, with figures and hard queries"]
        lines += ["dmkd evaluate --checkpoint best-student        # the logged recall again"]
        lines += [f'mlflow ui --backend-store-uri {uri}        # http://127.0.0.1:5000, "Model training"']
        print("next:\n" + "\n".join(f"    {line}" for line in lines))
        self.log_report()

    def log_report(self) -> None:
        """The figures and the board on the parent run, for those who look at MLflow; a sweep does not fail for want of them."""
        from sweeps.importance import with_importances
        from tracking.errors import TrackingError
        from tracking.report.logged import log_report
        from tracking.show import find_board

        about = self.about
        try:
            board = find_board(self.places.tracking_uri, about.experiment, select_by=about.objective, report=about.report)
            log_report(with_importances(board))
        except (TrackingError, OSError) as error:
            print(f"note: the report could not be logged to MLflow: {error}", file=sys.stderr)

    def shared(self, base: Config | None = None, **changes: Any) -> Shared:
        """What the trials of a stage have in common."""
        shared = Shared(
            base=base or Config(),
            folder=self.places.trials,
            tracking_uri=self.places.tracking_uri,
            experiment=self.about.experiment,
            sweep=self.record.id,
            parent=self.parent,
            parent_key=f"{self.record.id}/sweep",
            spool=self.places.spool,
            driver=self.id,
            silence=silence(),
            storage=self.places.storage.leased(),
            objective=self.about.objective,
            tags=self.tags | self.source,
            weights=self.weights.put(self.teachers),
        )
        return dataclasses.replace(shared, **changes)

    def jobs(self, stage: str, jobs: list[Job], shared: Shared, rerun_failed: bool) -> dict[str, Any]:
        """Run what is not yet done of a list; how each ended, by key."""
        return run_jobs(stage, jobs, shared, self.resources, rerun_failed=rerun_failed)

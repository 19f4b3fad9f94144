"""The stages of a sweep on a cluster: the teacher, the search, the final stage; each leaves what is done alone."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from typing import Any

from optuna.trial import TrialState

from dmkd.config import Config, to_yaml
from dmkd.data import Data
from dmkd.errors import SweepError
from dmkd.space import override
from sweeps.accounting import spent
from sweeps.cluster import run_tuner
from sweeps.driver import About, Driver
from sweeps.options import Options
from sweeps.packing import costliest
from sweeps.pareto import write_front
from sweeps.pieces import taught
from sweeps.places import Places
from sweeps.plan import gflops_refusal
from sweeps.prepare import Prepared
from sweeps.record import Record
from sweeps.retention import Ended, Retention, release
from sweeps.rows import final_jobs, final_rows, row_id, teacher_jobs
from sweeps.search import StudySearch, trial_key
from sweeps.session import goes_on
from sweeps.space import Searched, Values
from sweeps.stopping import SCHEDULERS, Budget
from sweeps.study import SKIPPED, enqueue, enqueue_failed, failed_trials, open_study, ranked, retries, spread
from sweeps.teachers import check_folds, keep_teacher, model_alias
from sweeps.trial import Shared, read_done


class Stages(Driver):
    """One sweep being run. `failures` says, in words, what failed."""

    def __init__(self, prepared: Prepared, options: Options, places: Places, record: Record, commit: str) -> None:
        self.prepared, self.definition, self.pieces = prepared, prepared.definition, prepared.pieces
        about = About(prepared.experiment, self.definition.name, self.definition.description, prepared.objective)
        super().__init__(about, options, places, record, commit)
        directions = prepared.objectives.directions
        self.study = open_study(
            places.folder, self.definition.name, prepared.sampler, self.definition.base.seed, directions=directions
        )

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the parent run, and of the search's."""
        return self.prepared.tags

    @property
    def workers(self) -> int:
        """Loading processes of a trial."""
        return self.definition.base.data.workers

    @property
    def data(self) -> dict[str, tuple[Data, str]]:
        """The base's."""
        base = self.definition.base.data
        return {base.name: (base, self.prepared.facts.fingerprint)}

    @property
    def teachers(self) -> set[str]:
        """The base's, or one a fold."""
        return {self.definition.base.teacher.checkpoint} | {piece.values.get("teacher.checkpoint", "") for piece in self.pieces}

    def run(self) -> bool:
        """Every stage that is not done; whether the sweep is finished (it is not after Ctrl-C)."""
        if not goes_on(self.record, self.options, self.study, self.places.trials):
            return True
        return super().run()

    def stages(self) -> bool:
        """Teacher, search, final stage."""
        return self._teacher() and self._search() and self._final()

    def describe(self) -> str:
        """The base."""
        return to_yaml(self.definition.base)

    def shared(self, base: Config | None = None, **changes: Any) -> Shared:
        """What the trials of a stage have in common; they vary the base, which knows its teacher by then."""
        return super().shared(base or self.definition.base, **changes)

    def _teacher(self) -> bool:
        """Train the teacher unless it is there or given, one a fold; the base (the final stage) learns from the first of them."""
        config = self.definition.teacher
        if config is None or self.definition.base.teacher.checkpoint:
            return True
        jobs = teacher_jobs(self.definition)
        ended = self.jobs("teacher", jobs, self.shared(base=config, objective="val/recall_at_1"), rerun_failed=True)
        if failed := [end["reason"] for end in ended.values() if end["status"] == "failed"]:
            raise SweepError(f"the teacher failed: {failed[0]}")
        if len(ended) < len(jobs):
            return False
        places = [str(self.places.trials / job.key / "checkpoint") for job in jobs]
        self.places.storage.fetch(*places)
        self._keep_teacher(jobs[0].key, row_id(config, {}))
        base = override(self.definition.base, {"teacher.checkpoint": places[0]})
        self.definition = dataclasses.replace(self.definition, base=base)
        if base.data.folds:
            check_folds(base, places)
            self.pieces = taught(self.pieces, dict(enumerate(places)))
        return True

    def _keep_teacher(self, key: str, config_hash: str) -> None:
        """Give the trained teacher its name in the registry, where it has one."""
        if not self.definition.teacher_name:
            return
        alias = model_alias(config_hash, self.prepared.facts.parts.fingerprint)
        name, experiment = self.definition.teacher_name, self.about.experiment
        note = keep_teacher(name, alias, experiment, f"{self.record.id}/{key}", self.places.tracking_uri)
        if note:
            print(f"  note: {note}", file=sys.stderr)

    def _search(self) -> bool:
        """Run what is left of the search; whether all of it ended."""
        prepared, base = self.prepared, self.definition.base
        searched = Searched(base, prepared.searched.space)
        enqueue(self.study, searched, prepared.points)
        if self.options.rerun_failed:
            enqueue_failed(self.study)
        bound = self.options.max_gflops  # Tune keeps a copy of the searcher, and this object cannot be copied
        search = StudySearch(
            self.study,
            searched,
            objectives=prepared.objectives,
            epochs=base.optim.epochs,
            limit=min(self.record.trials, prepared.most) + retries(self.study),
            pieces=self.pieces,
            accept=lambda values: gflops_refusal(searched, values, bound),
            closed=self._budget().closed,
            save=self.places.storage.save,
        )
        if search.left:
            self.pack(self._costliest, search.left)
            tags = prepared.tags | self.source | {"dmkd.stage": "search"}
            shared = self.shared(tags=tags, latency_on=self.options.latency_on or "cpu:1" * prepared.objectives.latency)
            run_tuner(
                "search",
                shared,
                self.resources,
                search.left,
                search_alg=search,
                callbacks=self._retention(searched),
                **self._scheduler(),
            )
        failed = failed_trials(self.study)
        self.failures += [f"trial {number}: {reason}" for number, reason in failed.items()]
        trials = self.study.get_trials(deepcopy=False)
        if trials and len(failed) == len(trials):
            raise SweepError(f"every trial of the search failed, first {self.failures[0]}")
        # Ctrl-C between two trials leaves none running, but the search is not over.
        return search.over and not any(trial.state == TrialState.RUNNING for trial in trials)

    def _costliest(self) -> Config:
        """The trial that takes most of a card."""
        searched = Searched(self.definition.base, self.prepared.searched.space)
        return costliest(searched, lambda values: gflops_refusal(searched, values, self.options.max_gflops))

    def _scheduler(self) -> dict[str, Any]:
        """Early stopping, where it is on."""
        prepared, epochs = self.prepared, self.definition.base.optim.epochs
        if not prepared.grace:
            return {}
        make = SCHEDULERS[prepared.stopping]
        asked = {"metric": prepared.objective, "grace": prepared.grace, "epochs": epochs, "storage": self.places.storage}
        return {"scheduler": make(self.study, self.places.trials, **asked)}

    def _budget(self) -> Budget:
        """What is left of --hours and --gpu-hours. Raises `SweepError` for GPU hours of trials without a GPU."""
        share, options = self.resources.gpus, self.options
        if options.gpu_hours is not None and not share:
            raise SweepError("--gpu-hours: these trials train on CPUs; say --hours, or give them a GPU (--gpus-per-trial)")
        runs = (len(final_rows(self.definition, {}, "")) + self.definition.finalists) * self.definition.seeds
        before = (time.monotonic() - self.started) * share if self.definition.teacher is not None else 0.0
        waves = math.ceil(runs / self.resources.at_once)
        return Budget(self.started, options.hours, options.gpu_hours, share, waves, runs, before)

    def _retention(self, searched: Searched) -> list[Retention]:
        """Takes the checkpoints of trials that others have overtaken; of folds, and of a Pareto front, all stay for `dmkd gc`."""
        if self.prepared.objectives.costs or len(self.prepared.pieces) > 1:
            return []
        ended = [
            Ended(trial_key(trial.number), trial.values[0], row_id(searched.base, searched.decoded(trial)))
            for trial in ranked(self.study)
        ]
        return [
            Retention(
                self.prepared.objective,
                self.definition.base.optim.epochs,
                self.definition.finalists,
                {trial.key: trial for trial in ended},
                name=lambda values: row_id(searched.base, values),
                release=lambda key: release(self.places, key, self.about.experiment, self.record.id),
            )
        ]

    def _best(self) -> dict[str, Values]:
        """The best trials by validation (with several objectives: of the Pareto front), each configuration once."""
        searched = Searched(self.definition.base, self.prepared.searched.space)
        unique: dict[str, Any] = {}
        for trial in ranked(self.study):
            unique.setdefault(row_id(searched.base, searched.decoded(trial)), trial)
        chosen = list(unique.values())
        several = len(self.study.directions) > 1
        chosen = spread(chosen, self.definition.finalists) if several else chosen[: self.definition.finalists]
        return {f"trial {trial.number}": searched.decoded(trial) for trial in chosen}

    def report(self) -> None:
        """The Pareto front, where there is one, then the leaderboard."""
        if self.prepared.objectives.costs:
            searched = Searched(self.definition.base, self.prepared.searched.space)
            print("\n" + write_front(self.places.folder, self.study, searched, self.prepared.objectives))
        super().report()

    def _final(self) -> bool:
        """Every row of the final stage with every seed; whether all ended."""
        base = self.definition.base
        beyond = bool(gflops_refusal(Searched(base, self.prepared.searched.space), {}, self.options.max_gflops))
        rows = final_rows(self.definition, self._best(), base.teacher.checkpoint, beyond)
        jobs = final_jobs(self.definition, rows)
        self.pack(self._costliest, sum(read_done(self.places.trials / job.key) is None for job in jobs))
        ended = self.jobs("final", jobs, self.shared(tags=self.prepared.final_tags | self.source), self.options.rerun_failed)
        self.failures += [
            f"{job.key}: {ended[job.key]['reason']}" for job in jobs if ended.get(job.key, {}).get("status") == "failed"
        ]
        return all(job.key in ended for job in jobs)

    def params(self) -> dict[str, object]:
        """Params of the parent run."""
        begun = self.record.trials - self.record.extended  # a run's params are those that it was begun with
        names = {"trials": begun, "seeds": self.definition.seeds, "sampler": self.prepared.sampler}
        names |= {"objective": str(self.prepared.objectives), "epochs": self.definition.base.optim.epochs}
        return names | {"folds": self.definition.base.data.folds, "search_seeds": self.options.search_seeds}

    def costs(self) -> dict[str, float]:
        """Metrics of the parent run: what everything has cost since the sweep began, over all its sessions."""
        trials = self.study.get_trials(deepcopy=False)
        ran = [trial for trial in trials if not trial.user_attrs.get(SKIPPED)]
        states = {f"sweep/trials_{state.name.lower()}": float(sum(t.state == state for t in ran)) for state in TrialState}
        states["sweep/trials_refused"] = float(len(trials) - len(ran))
        self.record.wall_seconds += time.monotonic() - self.started
        self.record.save()
        return states | spent(self.places.trials) | {"sweep/wall_seconds": self.record.wall_seconds}

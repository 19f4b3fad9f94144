"""The stages of a sweep on a cluster: the teacher, the search, the final stage; each leaves what is done alone."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from typing import Any

from optuna.trial import TrialState

from dmkd.config import Config, to_yaml
from dmkd.errors import SweepError
from dmkd.space import override
from sweeps.cluster import run_tuner
from sweeps.driver import About, Driver
from sweeps.options import Options
from sweeps.places import Places
from sweeps.plan import gflops_refusal
from sweeps.prepare import Prepared
from sweeps.record import Record
from sweeps.rows import Job, final_jobs, final_rows, row_id
from sweeps.search import StudySearch, enqueue, enqueue_failed, failed_trials, open_study, retries
from sweeps.space import Searched, Values
from sweeps.stopping import Asha, time_is_up
from sweeps.teachers import keep_teacher, model_alias
from sweeps.trial import Shared


class Stages(Driver):
    """One sweep being run. `failures` says, in words, what failed."""

    def __init__(self, prepared: Prepared, options: Options, places: Places, record: Record, commit: str) -> None:
        self.prepared, self.definition = prepared, prepared.definition
        about = About(prepared.experiment, self.definition.name, self.definition.description, prepared.objective)
        super().__init__(about, options, places, record, commit)
        self.study = open_study(places.folder, self.definition.name, prepared.sampler, self.definition.base.seed)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the parent run, and of the search's."""
        return self.prepared.tags

    @property
    def workers(self) -> int:
        """Loading processes of a trial."""
        return self.definition.base.data.workers

    def run(self) -> bool:
        """Every stage that is not done; whether the sweep is finished (it is not after Ctrl-C)."""
        if self.record.finished:
            print("  already finished: nothing is repeated (--extend N adds trials)", file=sys.stderr)
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
        """Train the teacher unless it is there or given; from here on the base learns from it."""
        config = self.definition.teacher
        if config is None or self.definition.base.teacher.checkpoint:
            return True
        name = row_id(config, {})
        tags = {"dmkd.stage": "teacher", "dmkd.reference": "teacher", "dmkd.label": "teacher"}
        job = Job(f"teacher-{name}", {}, tags)
        shared = self.shared(base=config, objective="val/recall_at_1")
        ended = self.jobs("teacher", [job], shared, rerun_failed=True).get(job.key)
        if ended is None:
            return False
        if ended["status"] == "failed":
            raise SweepError(f"the teacher failed: {ended['reason']}")
        self._keep_teacher(job.key, name)
        base = override(self.definition.base, {"teacher.checkpoint": str(self.places.trials / job.key / "checkpoint")})
        self.definition = dataclasses.replace(self.definition, base=base)
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
        search = StudySearch(
            self.study,
            searched,
            metric=prepared.objective,
            epochs=base.optim.epochs,
            limit=min(self.record.trials, prepared.most) + retries(self.study),
            accept=lambda values: gflops_refusal(searched, values, self.options.max_gflops),
            closed=time_is_up(self.started, self.options.hours, self._final_waves()),
        )
        if search.left:
            asha = prepared.grace and Asha(
                self.study, self.places.trials, metric=prepared.objective, grace=prepared.grace, epochs=base.optim.epochs
            )
            tuning = {"search_alg": search} | ({"scheduler": asha} if asha else {})
            run_tuner(
                "search",
                self.shared(tags=prepared.tags | self.commit | {"dmkd.stage": "search"}),
                self.resources,
                search.left,
                **tuning,
            )
        failed = failed_trials(self.study)
        self.failures += [f"trial {number}: {reason}" for number, reason in failed.items()]
        trials = self.study.get_trials(deepcopy=False)
        if trials and len(failed) == len(trials):
            raise SweepError(f"every trial of the search failed, first {self.failures[0]}")
        # Ctrl-C between two trials leaves none running, but the search is not over.
        return search.over and not any(trial.state == TrialState.RUNNING for trial in trials)

    def _final_waves(self) -> int:
        rows = final_rows(self.definition, {}, "")
        runs = (len(rows) + self.definition.finalists) * self.definition.seeds
        return math.ceil(runs / self.resources.at_once)

    def _best(self) -> dict[str, Values]:
        """The best trials by validation, each configuration once: {label: values}."""
        searched = Searched(self.definition.base, self.prepared.searched.space)
        complete = [t for t in self.study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
        ranked = sorted(complete, key=lambda trial: (-float(trial.value or 0.0), trial.number))
        unique: dict[str, tuple[str, Values]] = {}
        for trial in ranked:
            values = searched.decoded(trial)
            unique.setdefault(row_id(searched.base, values), (f"trial {trial.number}", values))
        return dict(list(unique.values())[: self.definition.finalists])

    def _final(self) -> bool:
        """Every row of the final stage with every seed; whether all ended."""
        base = self.definition.base
        beyond = bool(gflops_refusal(Searched(base, self.prepared.searched.space), {}, self.options.max_gflops))
        rows = final_rows(self.definition, self._best(), base.teacher.checkpoint, beyond)
        jobs = final_jobs(self.definition, rows)
        ended = self.jobs("final", jobs, self.shared(tags=self.prepared.final_tags | self.commit), self.options.rerun_failed)
        self.failures += [
            f"{job.key}: {ended[job.key]['reason']}" for job in jobs if ended.get(job.key, {}).get("status") == "failed"
        ]
        return all(job.key in ended for job in jobs)

    def params(self) -> dict[str, object]:
        """Params of the parent run."""
        names = {"trials": self.record.trials, "seeds": self.definition.seeds, "sampler": self.prepared.sampler}
        return names | {"objective": self.prepared.objective, "epochs": self.definition.base.optim.epochs}

    def costs(self) -> dict[str, float]:
        """Metrics of the parent run."""
        trials = self.study.get_trials(deepcopy=False)
        states = {f"sweep/trials_{state.name.lower()}": float(sum(t.state == state for t in trials)) for state in TrialState}
        return states | {"sweep/wall_seconds": time.monotonic() - self.started}

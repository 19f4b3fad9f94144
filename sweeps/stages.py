"""The stages of a sweep on a cluster: the teacher, the search, the final stage; each leaves what is done alone."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from typing import Any

from optuna.trial import TrialState

from dmkd.config import to_yaml
from dmkd.errors import SweepError
from dmkd.space import override
from sweeps.cluster import Resources, connect, disconnect, find_resources, run_jobs, run_tuner
from sweeps.options import Options
from sweeps.places import Places
from sweeps.plan import Definition, gflops_refusal
from sweeps.prepare import Prepared
from sweeps.record import Record
from sweeps.rows import Job, final_jobs, final_rows, row_id
from sweeps.search import StudySearch, enqueue, enqueue_failed, failed_trials, open_study, retries
from sweeps.space import Searched, Values
from sweeps.stopping import Asha, time_is_up
from sweeps.trial import Shared
from tracking.places import default_uri
from tracking.runs import start_run, sync
from tracking.show import show


class Stages:
    """One sweep being run. `failures` says, in words, what failed."""

    def __init__(self, prepared: Prepared, options: Options, places: Places, record: Record, commit: str) -> None:
        self.prepared, self.options, self.places, self.record = prepared, options, places, record
        self.definition: Definition = prepared.definition
        self.started = time.monotonic()
        self.failures: list[str] = []
        self.commit = {"mlflow.source.git.commit": commit, "dmkd.commit": commit} if commit else {}
        self.study = open_study(places.folder, self.definition.name, prepared.sampler, self.definition.base.seed)
        self.resources = Resources(1, 0.0, 1)
        self.parent: str | None = None

    def run(self) -> bool:
        """Every stage that is not done; whether the sweep is finished (it is not after Ctrl-C)."""
        if self.record.finished:
            print("  already finished: nothing is repeated (--extend N adds trials)", file=sys.stderr)
            return True
        prepared = self.prepared
        run = start_run(
            self.places.tracking_uri,
            self.prepared.experiment,
            self.definition.name,
            key=f"{self.record.id}/sweep",
            params=self._params(),
            tags=prepared.tags
            | self.commit
            | {"dmkd.stage": "sweep", "mlflow.note.content": self.definition.description.strip()},
        )
        self.parent = run.id
        finished = started = False
        try:
            run.log_text(to_yaml(self.definition.base), "config.yaml")
            started = connect()
            workers = self.definition.base.data.workers
            self.resources = find_resources(self.options.gpus_per_trial, workers, self.options.max_concurrent)
            finished = self._teacher() and self._search() and self._final()
            run.log(self._costs(), step=0)
        except BaseException as error:
            run.finish("FAILED" if isinstance(error, Exception) else "KILLED", f"{type(error).__name__}: {error}")
            raise
        finally:
            if not finished:
                disconnect(started)
            # A worker that was killed, in the middle of an epoch say, has not closed its run.
            sync()
        run.finish("FINISHED" if finished else "KILLED", "" if finished else "interrupted: --resume goes on")
        if finished:
            self.record.finished = True
            self.record.save()
        return finished

    def report(self) -> None:
        """The leaderboard, and what to type next."""
        uri, experiment = self.places.tracking_uri, self.prepared.experiment
        print(f"\n{show(uri, experiment, select_by=self.prepared.objective)}\n")
        there = "" if uri == default_uri() else f" --tracking-uri {uri}"
        active = os.environ.get("VIRTUAL_ENV") or sys.prefix == sys.base_prefix
        lines = [] if active else [f"source {os.path.relpath(sys.prefix)}/bin/activate"]
        lines += [f"dmkd leaderboard --experiment {experiment}{there}", f"dmkd pull 1 --to best-student{there}"]
        lines += ["dmkd evaluate --checkpoint best-student        # the logged recall again"]
        lines += [f'mlflow ui --backend-store-uri {uri}        # http://127.0.0.1:5000, "Model training"']
        print("next:\n" + "\n".join(f"    {line}" for line in lines))

    def _shared(self, **changes: Any) -> Shared:
        shared = Shared(
            base=self.definition.base,
            folder=self.places.trials,
            tracking_uri=self.places.tracking_uri,
            experiment=self.prepared.experiment,
            sweep=self.record.id,
            parent=self.parent,
            objective=self.prepared.objective,
            tags=self.prepared.tags | self.commit,
        )
        return dataclasses.replace(shared, **changes)

    def _teacher(self) -> bool:
        """Train the teacher unless it is there or given; from here on the base learns from it."""
        config = self.definition.teacher
        if config is None or self.definition.base.teacher.checkpoint:
            return True
        name = row_id(config, {})
        tags = {"dmkd.stage": "teacher", "dmkd.reference": "teacher", "dmkd.label": "teacher"}
        job = Job(f"teacher-{name}", {}, tags)
        shared = self._shared(base=config, objective="val/recall_at_1")
        ended = self._jobs("teacher", [job], shared, rerun_failed=True).get(job.key)
        if ended is None:
            return False
        if ended["status"] == "failed":
            raise SweepError(f"the teacher failed: {ended['reason']}")
        base = override(self.definition.base, {"teacher.checkpoint": str(self.places.trials / job.key / "checkpoint")})
        self.definition = dataclasses.replace(self.definition, base=base)
        return True

    def _jobs(self, stage: str, jobs: list[Job], shared: Shared, rerun_failed: bool) -> dict[str, Any]:
        return run_jobs(stage, jobs, shared, self.resources, rerun_failed=rerun_failed)

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
                self._shared(tags=prepared.tags | self.commit | {"dmkd.stage": "search"}),
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
        ended = self._jobs("final", jobs, self._shared(tags=self.prepared.final_tags | self.commit), self.options.rerun_failed)
        self.failures += [
            f"{job.key}: {ended[job.key]['reason']}" for job in jobs if ended.get(job.key, {}).get("status") == "failed"
        ]
        return all(job.key in ended for job in jobs)

    def _params(self) -> dict[str, object]:
        names = {"trials": self.record.trials, "seeds": self.definition.seeds, "sampler": self.prepared.sampler}
        return names | {"objective": self.prepared.objective, "epochs": self.definition.base.optim.epochs}

    def _costs(self) -> dict[str, float]:
        trials = self.study.get_trials(deepcopy=False)
        states = {f"sweep/trials_{state.name.lower()}": float(sum(t.state == state for t in trials)) for state in TrialState}
        return states | {"sweep/wall_seconds": time.monotonic() - self.started}

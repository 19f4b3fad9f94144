"""A Ray Tune searcher on a durable Optuna study, and early stopping that remembers.

The study is the truth of a sweep: resume, extend and rerun-failed are each a new Tuner on the same study. The searcher first
hands out the trials that were running when a driver died, then what is enqueued (trial 0 first), then new proposals.
"""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from dmkd.errors import SweepError
from dmkd.space import nearest
from sweeps.space import Searched, Values


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    # constant_liar: trials that still run count, so that concurrent proposals differ.
    return optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)


def _cmaes(seed: int) -> optuna.samplers.BaseSampler:
    if importlib.util.find_spec("cmaes") is None:
        raise SweepError("--sampler cmaes needs the package cmaes: pip install cmaes, or use tpe")
    return optuna.samplers.CmaEsSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "cmaes": _cmaes,
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed),
    # Optuna's own grid sampler cannot live beside enqueued trials; a grid is its points, enqueued.
    "grid": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """A seeded Optuna sampler by name. Raises `SweepError` naming the nearest known one."""
    if name not in SAMPLERS:
        raise SweepError(f"unknown sampler {name!r}: {nearest(name, SAMPLERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed)


def open_study(folder: Path, name: str, sampler: str = "random", seed: int = 0) -> optuna.Study:
    """The sweep's study in `folder` (a journal file: durable, and safe on a network file system), made when it is not there."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    existing = {summary.study_name: summary.n_trials for summary in optuna.get_all_study_summaries(storage)}
    # A resumed sampler must not draw the same points again.
    chosen = make_sampler(sampler, seed + existing.get(name, 0))
    return optuna.create_study(study_name=name, storage=storage, sampler=chosen, direction="maximize", load_if_exists=True)


def enqueue(study: optuna.Study, searched: Searched, points: list[Values]) -> None:
    """Enqueue the base as trial 0, then further known points; points that the study already holds are left alone."""
    for values in [searched.base_values(), *points]:
        searched.check(values)
        study.enqueue_trial(searched.encoded(values), skip_if_exists=True)


def enqueue_failed(study: optuna.Study) -> None:
    """Enqueue every failed trial that was not yet run again, with `retry_of`."""
    trials = study.get_trials(deepcopy=False)
    for number in failed_trials(study):
        study.enqueue_trial(trials[number].params, user_attrs={"retry_of": number})


def failed_trials(study: optuna.Study) -> dict[int, str]:
    """{number: reason} of the trials that failed and were not run again."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get("retry_of") for trial in trials}
    failed = [t for t in trials if t.state == TrialState.FAIL and not t.user_attrs.get("skipped")]
    return {trial.number: trial.user_attrs.get("reason", "") for trial in failed if trial.number not in again}


def retries(study: optuna.Study) -> int:
    """Trials that repeat a failed one: they come on top of the planned number."""
    return sum("retry_of" in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def counted(study: optuna.Study) -> int:
    """Trials of the study that were run or are running (not those refused before they began, nor those still enqueued)."""
    trials = study.get_trials(deepcopy=False)
    return sum(t.state != TrialState.WAITING and not t.user_attrs.get("skipped") for t in trials)


class StudySearch(Searcher):
    """Ask, report and tell between Ray Tune and an Optuna study.

    `limit` trials in the whole study; `accept(values)` refuses a proposal before it runs, in words, or gives "";
    `deadline(seconds of a trial)` says whether it is too late to begin another.
    """

    def __init__(
        self,
        study: optuna.Study,
        searched: Searched,
        *,
        metric: str,
        epochs: int,
        limit: float,
        accept: Callable[[Values], str] = lambda values: "",
        closed: Callable[[float], bool] = lambda seconds: False,
    ) -> None:
        super().__init__(metric=metric, mode="max")
        self.study, self.searched = study, searched
        self.epochs, self.limit, self.accept, self.closed = epochs, limit, accept, closed
        self._ended = False
        self._running: dict[str, optuna.trial.Trial] = {}
        self._orphans = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]

    @property
    def left(self) -> float:
        """Trials still to hand out."""
        return len(self._orphans) + max(0, self.limit - counted(self.study))

    @property
    def over(self) -> bool:
        """Whether nothing is left: every trial handed out, the time up, or no further proposal within the bounds."""
        return self._ended or not self.left

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Everything was given to the constructor."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial: `{"number", "key", "values"}`, or FINISHED."""
        if self._orphans:
            trial = optuna.trial.Trial(self.study, self._orphans.pop(0)._trial_id)
            return self._handed(trial_id, trial, self.searched.propose(trial))
        if counted(self.study) >= self.limit or self.closed(self._seconds()):
            self._ended = True
            return str(Searcher.FINISHED)
        for trial, values in self._proposals():
            refusal = self.accept(values) if trial.number else ""
            if not refusal:
                return self._handed(trial_id, trial, values)
            trial.set_user_attr("skipped", True)
            trial.set_user_attr("reason", refusal)
            self.study.tell(trial, state=TrialState.FAIL)
        self._ended = True
        return str(Searcher.FINISHED)

    def _proposals(self, attempts: int = 200) -> Iterator[tuple[optuna.trial.Trial, Values]]:
        for _ in range(attempts):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental features, chosen by us on purpose
                trial = self.study.ask()
                yield trial, self.searched.propose(trial)

    def _handed(self, trial_id: str, trial: optuna.trial.Trial, values: Values) -> dict[str, Any]:
        self._running[trial_id] = trial
        tags = {"dmkd.trial": str(trial.number), "dmkd.label": f"trial {trial.number}"}
        return {"number": trial.number, "key": trial_key(trial.number), "values": values, "tags": tags}

    def _seconds(self) -> float:
        done = [
            t.duration.total_seconds()
            for t in self.study.get_trials(deepcopy=False)
            if t.duration and not t.user_attrs.get("skipped")
        ]
        return max(done, default=0.0)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a finite value once for each epoch.

        `history`, the trial's own record of [epoch, value], fills what a driver that died did not hear of.
        """
        trial = self._running[trial_id]
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        told = {int(epoch): value for epoch, value in result.get("history", [])} | {
            int(result.get("epoch", 0)): result.get(self.metric)
        }
        for epoch, value in told.items():
            if value is not None and math.isfinite(value) and epoch not in known:
                trial.report(float(value), epoch)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study COMPLETE, PRUNED (stopped before the planned epochs) or FAIL with its reason, never a NaN."""
        trial = self._running.pop(trial_id)
        if result is not None and not error:
            self._running[trial_id] = trial
            self.on_trial_result(trial_id, result)
            del self._running[trial_id]
        reason, value = self._reason(result, error), (result or {}).get(self.metric)
        if reason:
            trial.set_user_attr("reason", reason)
            self.study.tell(trial, state=TrialState.FAIL)
        elif int((result or {})["epoch"]) < self.epochs:
            trial.set_user_attr("reason", f"stopped early after epoch {(result or {})['epoch']} of {self.epochs}")
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, float(value or 0.0))

    def _reason(self, result: dict[str, Any] | None, error: bool) -> str:
        """Why a trial failed; empty for one that did not."""
        if result is not None and result.get("failed"):
            return str(result["failed"])
        if error or result is None or "epoch" not in result:
            return "the worker process ended without a word (killed, or out of memory): see the trial's run and Ray's logs"
        value = result.get(self.metric)
        if value is None:
            return f"{self.metric} was not measured: is it a metric of this method? (a trial reports {_like(result)})"
        return "" if math.isfinite(value) else f"{self.metric} is {value} after epoch {result['epoch']}"

    def save(self, checkpoint_path: str) -> None:
        """The study is durable by itself; what is left is {tune id: number}."""
        Path(checkpoint_path).write_text(json.dumps({tune_id: trial.number for tune_id, trial in self._running.items()}))

    def restore(self, checkpoint_path: str) -> None:
        """Take up the trials that a saved searcher was running."""
        numbers = json.loads(Path(checkpoint_path).read_text())
        trials = self.study.get_trials(deepcopy=False)
        self._running = {tune_id: optuna.trial.Trial(self.study, trials[number]._trial_id) for tune_id, number in numbers.items()}
        self._orphans = [trial for trial in self._orphans if trial.number not in numbers.values()]


def trial_key(number: int) -> str:
    """The stable name of a search trial: its folder and its run."""
    return f"trial-{number:04d}"


def _like(result: dict[str, Any]) -> str:
    return ", ".join(sorted(key for key in result if key.startswith("val"))) or "no val/..."

"""The Optuna study of a sweep: its storage, its sampler, what is enqueued, and how trials stand in it."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from dmkd.errors import SweepError
from dmkd.space import nearest
from sweeps.journal import Journal, synced_once
from sweeps.places import STUDY
from sweeps.space import Searched, Values

Direction = Literal["maximize", "minimize"]
MAXIMIZE: tuple[Direction, ...] = ("maximize",)

CURVE, REASON, SKIPPED, RETRY = "curve", "reason", "skipped", "retry_of"
"""User attributes of a trial: [epoch, value] pairs where Optuna takes no intermediate values; why it ended; that it was refused
before it began; the failed trial that it repeats."""


class ExploringTPE(optuna.samplers.TPESampler):
    """TPE whose every fourth trial is drawn at random.

    Left to itself, multivariate TPE may settle on a good region and not leave it: an insurance against that, which costs nothing
    that twenty replayed searches could show, and gains nothing that they could show either (docs/search.md).
    """

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Nothing for a random trial: each of its parameters is then asked for by itself."""
        return {} if _explores(trial) else super().sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """At random in a random trial."""
        asked = (study, trial, param_name, param_distribution)
        return self._random_sampler.sample_independent(*asked) if _explores(trial) else super().sample_independent(*asked)


def _explores(trial: FrozenTrial) -> bool:
    return trial.number % EXPLORES == EXPLORES - 1


EXPLORES = 4
"""One in so many trials of TPE is random."""


STARTUP = 10
"""Trials before TPE begins: known points, then random ones. Ten random ones beside known points cost more than they gave
(docs/search.md)."""


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    # constant_liar: trials that still run count, so that concurrent proposals differ.
    return ExploringTPE(n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed)


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
    """A seeded Optuna sampler by name. Raises `SweepError` for an unknown name."""
    if name not in SAMPLERS:
        raise SweepError(f"unknown sampler {name!r}: {nearest(name, SAMPLERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed)


def check_sampler(name: str, searched: Searched, objectives: int) -> None:
    """Raise `SweepError` for a sampler that is unknown, or that cannot serve this space or several objectives."""
    conditional = [key for key, entry in searched.space.items() if entry.when]
    if name == "cmaes" and objectives > 1:
        raise SweepError("--sampler cmaes cannot serve several objectives: use tpe, gp or random")
    if name == "cmaes" and conditional:
        raise SweepError(f"--sampler cmaes cannot serve conditional keys ({', '.join(conditional)}): use tpe or random")
    make_sampler(name, 0)


def open_study(
    folder: Path,
    name: str,
    sampler: str = "random",
    seed: int = 0,
    *,
    directions: Sequence[Direction] = MAXIMIZE,
) -> optuna.Study:
    """The sweep's study in `folder` (a journal file: durable, and safe on a network file system), made when it is not there."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(Journal(str(folder / STUDY)))
    existing = {summary.study_name: summary.n_trials for summary in optuna.get_all_study_summaries(storage)}
    # A resumed sampler must not draw the same points again.
    chosen = make_sampler(sampler, seed + existing.get(name, 0))
    if name in existing:
        return optuna.load_study(study_name=name, storage=storage, sampler=chosen)
    return optuna.create_study(study_name=name, storage=storage, sampler=chosen, directions=list(directions))


@synced_once()
def enqueue(study: optuna.Study, searched: Searched, points: list[Values]) -> None:
    """Enqueue the base as trial 0, then further known points; points that the study already holds are left alone."""
    for values in [searched.base_values(), *points]:
        searched.check(values)
        study.enqueue_trial(searched.encoded(values), skip_if_exists=True)


@synced_once()
def enqueue_failed(study: optuna.Study) -> None:
    """Enqueue every failed trial that was not yet run again, with `retry_of`."""
    trials = study.get_trials(deepcopy=False)
    for number in failed_trials(study):
        study.enqueue_trial(trials[number].params, user_attrs={RETRY: number})


def failed_trials(study: optuna.Study) -> dict[int, str]:
    """{number: reason} of the trials that failed and were not run again."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(RETRY) for trial in trials}
    failed = [t for t in trials if t.state == TrialState.FAIL and not t.user_attrs.get(SKIPPED)]
    return {trial.number: trial.user_attrs.get(REASON, "") for trial in failed if trial.number not in again}


def retries(study: optuna.Study) -> int:
    """Trials that repeat a failed one: they come on top of the planned number."""
    return sum(RETRY in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def counted(study: optuna.Study) -> int:
    """Trials of the study that were run or are running (not those refused before they began, nor those still enqueued)."""
    trials = study.get_trials(deepcopy=False)
    return sum(t.state != TrialState.WAITING and not t.user_attrs.get(SKIPPED) for t in trials)


def repeated(study: optuna.Study, trial: optuna.trial.Trial) -> str:
    """Which earlier trial a proposal repeats, in words: equal seeds give equal scores. Empty for a new one, and for a retry."""
    if RETRY in trial.user_attrs:
        return ""
    for other in study.get_trials(deepcopy=False)[: trial.number]:
        if other.state not in (TrialState.FAIL, TrialState.WAITING) and other.params == trial.params:
            return f"the configuration of trial {other.number} once more"
    return ""


def curve(trial: FrozenTrial) -> dict[int, float]:
    """{epoch: score} of a trial (of its first piece), whatever the number of objectives."""
    kept = {int(epoch): float(value) for epoch, value in trial.user_attrs.get(CURVE, [])}
    return kept or dict(trial.intermediate_values)


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials, the best score first; with several objectives those of the Pareto front alone."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if len(study.directions) > 1:
        complete = [trial for trial in complete if not any(dominates(other, trial) for other in complete)]
    return sorted(complete, key=lambda trial: (-trial.values[0], trial.values[1:], trial.number))


def dominates(one: FrozenTrial, other: FrozenTrial) -> bool:
    """Whether `one` is nowhere worse and somewhere better: the first value is maximised, the others minimised."""
    mine, theirs = ([-trial.values[0], *trial.values[1:]] for trial in (one, other))
    return all(a <= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs


def spread(trials: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """`count` of a front in its order, evenly over its length, both ends among them."""
    if len(trials) <= count:
        return list(trials)
    places = [round(step * (len(trials) - 1) / max(1, count - 1)) for step in range(count)]
    return [trials[place] for place in dict.fromkeys(places)]

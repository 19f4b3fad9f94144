"""Replay searchers on the recorded curves: the sweep's own searcher and early stopping, with epochs that cost nothing.

python -m benchmarks.search.replay                        # 20 seeds of each; writes benchmarks/search/replay.json
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna

from benchmarks.search.grid import EPOCHS, FOLDER, GRIDS, Point
from benchmarks.search.landscape import METRIC, Landscape, curves, space
from benchmarks.search.sources import SOURCES
from sweeps.objectives import Objectives
from sweeps.search import StudySearch
from sweeps.space import Searched, Values
from sweeps.stopping import Asha
from sweeps.study import make_sampler

SEEDS, AT_ONCE = 20, 4
CAP = 200
"""A search that has not reached the target after so many times a trial's epochs is given up."""
BEST_OF = 40
"""The bar is random search's best of so many trials."""
RESULTS = FOLDER / "replay.json"


@dataclass(frozen=True)
class Arm:
    """A searcher: `grace` is the first rung of ASHA; None: every trial runs to its end."""

    sampler: str
    grace: int | None = None
    warm: str = ""
    """What earlier sweep its known points come from; a key of `SOURCES`."""


def arms(ready: int) -> dict[str, Arm]:
    """What is compared; `ready` is the first rung that the method's ramp allows."""
    return {
        "random": Arm("random"),
        "TPE": Arm("tpe"),
        "random + ASHA": Arm("random", ready),
        "TPE + ASHA": Arm("tpe", ready),
        "TPE, warm: other method": Arm("tpe", None, "s2sd"),
        "TPE + ASHA, warm: other method": Arm("tpe", ready, "s2sd"),
        "TPE + ASHA, ramp ignored": Arm("tpe", 1),
        "TPE of Optuna": Arm("optuna"),
        "TPE + ASHA, warm: same data": Arm("tpe", ready, "half"),
        "TPE + ASHA, warm: other data": Arm("tpe", ready, "tones"),
    }


@dataclass
class Replay:
    """One search; `best` has the best final score after so many epochs, a point for every trial that ran to its end."""

    method: str
    arm: Arm
    seed: int
    known: Landscape
    warm: list[Values] = field(default_factory=list)
    epochs: int = 0
    best: list[tuple[int, float]] = field(default_factory=list)

    def run(self, folder: Path, target: float = math.inf) -> Replay:
        """`AT_ONCE` trials at a time, one epoch each in turn: at least as many epochs as `BEST_OF` trials have, then until the
        target is reached, or `CAP`."""
        limit = 10 * CAP
        base = next(iter(points_of(self.method))).config()
        searched = Searched(base, space(self.method))
        own = self.arm.sampler != "optuna"
        plain = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=self.seed)
        sampler = make_sampler(self.arm.sampler, self.seed) if own else plain
        study = optuna.create_study(direction="maximize", sampler=sampler)
        # A searcher that has luck with its first point says nothing: every seed starts somewhere else, trial 0 included.
        if self.arm.warm:
            enqueue_only(study, searched, self.warm)
        search = StudySearch(study, searched, objectives=Objectives(METRIC), epochs=EPOCHS, limit=limit)
        asha = Asha(study, folder, metric=METRIC, grace=self.arm.grace, epochs=EPOCHS) if self.arm.grace else None
        running: dict[str, tuple[Any, list[float], int]] = {}
        for name in range(10 * limit):
            if len(running) < AT_ONCE:
                job = search.suggest(str(name))
                if isinstance(job, dict):
                    # Trial 0 of a sweep is never stopped; here it is a point as any other.
                    trial = SimpleNamespace(trial_id=str(name), config=job | {"number": job["number"] + 1})
                    if asha:
                        asha.on_trial_add(None, trial)
                    running[str(name)] = trial, self.known(job["values"]), 0
                    if len(running) < AT_ONCE:
                        continue
            if not running:
                return self
            for key in list(running):
                self._advance(key, running, search, asha)
            reached = bool(self.best) and self.best[-1][1] >= target
            if self.epochs >= CAP * EPOCHS or (self.epochs >= BEST_OF * EPOCHS and reached):
                return self
        return self

    def _advance(self, key: str, running: dict[str, Any], search: StudySearch, asha: Asha | None) -> None:
        trial, scores, epoch = running.pop(key)
        epoch, self.epochs = epoch + 1, self.epochs + 1
        result = {"epoch": epoch, METRIC: scores[epoch - 1]}
        stop = asha is not None and epoch < EPOCHS and asha.on_trial_result(None, trial, result) == asha.STOP
        if epoch == EPOCHS or stop:
            search.on_trial_complete(key, result)
            if asha and epoch == EPOCHS:
                asha.on_trial_complete(None, trial, result)
            if epoch == EPOCHS:
                self.best.append((self.epochs, max(scores[-1], self.best[-1][1] if self.best else -1.0)))
            return
        search.on_trial_result(key, result)
        running[key] = trial, scores, epoch


def enqueue_only(study: optuna.Study, searched: Searched, points: list[Values]) -> None:
    """Known points without trial 0."""
    for values in points:
        study.enqueue_trial(searched.encoded(searched.completed(values)), skip_if_exists=True)


def points_of(method: str) -> list[Point]:
    """The grid's points of a method, as configurations."""
    return [Point(method, tuple((key, levels[len(levels) // 2]) for key, levels in GRIDS[method].items()))]


def until(replay: Replay, target: float) -> float:
    """Epochs after which the target was reached; infinity where it was not."""
    return next((epochs for epochs, best in replay.best if best >= target), math.inf)


def run(ready: int, seeds: int = SEEDS) -> dict[str, Any]:
    """Every arm with every seed: the target, epochs to it, and the best score after multiples of a trial's epochs."""
    recorded = curves("obd_sd")
    known, made = Landscape("obd_sd", recorded), {}  # type: Landscape, dict[str, list[Replay]]
    target = math.inf
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        bests = sorted(_best_of_random(known, seed) for seed in range(seeds))
        target = bests[len(bests) // 2]
        for name, arm in arms(ready).items():
            made[name] = []
            for seed in range(seeds):
                warm = SOURCES[arm.warm](seed) if arm.warm else []
                made[name].append(Replay("obd_sd", arm, seed, known, warm).run(Path(folder) / name / str(seed), target))
            print(name, [until(one, target) for one in made[name]], flush=True)
    spots = range(EPOCHS, BEST_OF * EPOCHS + 1, EPOCHS)
    return {
        "curves": len(recorded),
        "ready": ready,
        "target": target,
        "cap": CAP * EPOCHS,
        "best": max(scores[-1] for scores in recorded.values()),
        "epochs": {name: [until(one, target) for one in replays] for name, replays in made.items()},
        "paths": {name: [[_best_at(one, spot) for spot in spots] for one in replays] for name, replays in made.items()},
    }


def _best_of_random(known: Landscape, seed: int) -> float:
    """The best final score of `BEST_OF` random trials; other draws than those of the random arm."""
    replay = Replay("obd_sd", Arm("random"), 10_000 + seed, known).run(Path("unused"), -1.0)
    return _best_at(replay, BEST_OF * EPOCHS)


def _best_at(replay: Replay, epochs: int) -> float:
    return max((best for spent, best in replay.best if spent <= epochs), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--ready", type=int, default=None, help="first rung (default: the method's own)")
    options = parser.parse_args()
    from dmkd.distill.base import Plan
    from dmkd.distill.obd_sd import ObdSd

    ready = options.ready or ObdSd().ready_after(Plan(EPOCHS, 6))
    RESULTS.write_text(json.dumps(run(ready, options.seeds)), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a trial costs beside its training: no-op trials through the sweep's own Tuner, searcher and durable study.

python benchmarks/bench_sweep.py                                     # about 15 minutes of a quiet 2-core machine
DMKD_BENCH_TRIALS="10 100" python benchmarks/bench_sweep.py overhead

The peer is what a Ray user writes first: `tune.Tuner` on a function, with `OptunaSearch` and every default.
"""

from __future__ import annotations

import cProfile
import logging
import os
import pstats
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import ray
from ratio import alone, heading, record
from ray import tune

from dmkd.config import Config
from dmkd.space import Range
from sweeps.cluster import QUIET, ROOT, Resources, run_tuner
from sweeps.objectives import Objectives
from sweeps.search import StudySearch
from sweeps.shared import Shared
from sweeps.space import Searched
from sweeps.stopping import Asha
from sweeps.study import open_study

METRIC = "val/recall_at_1"
PEER = "Ray Tune + OptunaSearch by default"
SEARCHED = Searched(Config(), {"optim.lr": Range(1e-6, 1e-3, log=True)})
AT_ONCE = 2
TIMES = tuple(int(count) for count in os.environ.get("DMKD_BENCH_TRIALS", "10 30 100 1000").split())
"""Numbers of trials: about 100 ms each beyond the first."""
PEER_TIMES = tuple(int(count) for count in os.environ.get("DMKD_BENCH_PEER_TRIALS", "10 30").split())
"""Those of the peer: it starts a process for each, seconds apiece."""
REPEATS = 5
"""Pairs of the numbers that have a peer, in turn."""


class Nothing(tune.Trainable):
    """A trial of one epoch that trains nothing."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        """One number."""
        self.value = float(config["values"]["optim.lr"])

    def step(self) -> dict[str, Any]:
        """One epoch."""
        return {"epoch": 1, METRIC: self.value, "history": [[1, self.value]], "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Another trial in the same process."""
        self.setup(new_config)
        return True


def ours(count: int) -> float:
    """Wall seconds of a sweep's search stage over no-op trials: TPE, ASHA, a journal on disk."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "trials").mkdir()
        study = open_study(place, "noop", "tpe")
        search = StudySearch(study, SEARCHED, objectives=Objectives(METRIC), epochs=1, limit=count)
        shared = Shared(Config(), place / "trials", "", "", "noop", None, METRIC, {})
        asha = Asha(study, place / "trials", metric=METRIC, grace=1, epochs=1)
        started = time.perf_counter()
        run_tuner("search", shared, Resources(1, 0.0, AT_ONCE), count, trainable=Nothing, search_alg=search, scheduler=asha)
        taken = time.perf_counter() - started
        assert sum(trial.state.name == "COMPLETE" for trial in study.trials) == count
        return taken


def theirs(count: int) -> float:
    """The same number of trials by Ray Tune's and OptunaSearch's defaults (a study in memory)."""
    from ray.tune.search.optuna import OptunaSearch

    def nothing(config: dict[str, Any]) -> None:
        tune.report({METRIC: config["lr"]})

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            nothing,
            param_space={"lr": tune.loguniform(1e-6, 1e-3)},
            tune_config=tune.TuneConfig(search_alg=OptunaSearch(metric=METRIC, mode="max"), num_samples=count),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        started = time.perf_counter()
        found = tuner.fit()
        taken = time.perf_counter() - started
        assert len(found) == count
        return taken


def overhead() -> None:
    """A trial's overhead, and how it grows with their number."""
    ours(2)  # the first sweep of a process imports and warms up workers
    for count in TIMES:
        name = f"a trial's overhead, {count} no-op trials"
        if count not in PEER_TIMES:
            took, driver = told("ours", count, ours)
            alone(name, [took], a_trial=took / count, driver=driver)
            continue
        pairs = [(told("ours", count, ours), told(PEER, count, theirs)) for _ in range(REPEATS)]
        mine, other = ([side[0] for side in sides] for sides in zip(*pairs, strict=True))
        more = {"driver": statistics.median(first[1] for first, _ in pairs)}
        more |= {"a_trial": statistics.median(mine) / count, "peer_a_trial": statistics.median(other) / count}
        record(name, mine, other, peer_name=PEER, goal=0.25, clock="wall", **more)


def told(who: str, count: int, run: Callable[[int], float]) -> tuple[float, float]:
    """Wall seconds of `count` trials and the driver's CPU seconds, printed with the machine's load beside them."""
    before = time.process_time()
    took = run(count)
    cpu, load = time.process_time() - before, os.getloadavg()[0]
    print(
        f"  {who}, {count} trials: {took:.2f} s, {took / count:.3f} s a trial; driver {cpu:.2f} CPU s; load {load:.1f}",
        flush=True,
    )
    return took, cpu


def storage() -> None:
    """What the durable study costs a trial: ask, one intermediate value, two attributes, tell."""
    with tempfile.TemporaryDirectory() as folder:
        names = (f"{folder}/{number}" for number in range(1000))
        made: dict[str, Callable[[], optuna.Study]] = {
            "journal": lambda: open_study(Path(next(names)), "s"),
            "memory": lambda: optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)),
            "sqlite": lambda: optuna.create_study(
                storage=f"sqlite:///{next(names)}.db", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
            ),
        }
        times = {name: [a_trial(make()) for _ in range(REPEATS)] for name, make in made.items()}
    wall = {name: [each[0] for each in pairs] for name, pairs in times.items()}
    computing = statistics.median(cpu for _, cpu in times["journal"])
    name, peer = "durable storage of a no-op trial: the study's journal", "Optuna's sqlite"
    note = "goal: 25 ms a trial"
    record(
        name,
        wall["journal"],
        wall["sqlite"],
        peer_name=peer,
        note=note,
        computing=computing,
        memory=statistics.median(wall["memory"]),
    )


def a_trial(study: optuna.Study) -> tuple[float, float]:
    """Wall and CPU seconds of a trial that trains nothing, the mean of 100."""
    search = StudySearch(study, SEARCHED, objectives=Objectives(METRIC), epochs=1, limit=200)
    started, busy = time.perf_counter(), time.process_time()
    for number in range(100):
        search.suggest(str(number))
        search.on_trial_complete(str(number), {"epoch": 1, METRIC: 0.5, "time_total_s": 1.0})
    return (time.perf_counter() - started) / 100, (time.process_time() - busy) / 100


def profile() -> None:
    """Where the driver's time of 100 no-op trials goes."""
    profiler = cProfile.Profile()
    profiler.enable()
    ours(100)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("cumtime").print_stats(45)


PARTS: dict[str, Callable[[], None]] = {"storage": storage, "overhead": overhead, "profile": profile}


def main() -> None:
    os.environ |= QUIET | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    warnings.simplefilter("ignore")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it looks for logs that nobody wrote
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = sys.argv[1:] or ["storage", "overhead"]
    heading()
    if set(chosen) & {"overhead", "profile"}:
        ray.init(address="local", num_cpus=AT_ONCE, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    for part in chosen:
        PARTS[part]()


if __name__ == "__main__":
    main()

"""Trials an hour on one GPU: packed as `--gpus-per-trial auto` chooses, against one by one; the same trials, whole, both ways.

    python benchmarks/bench_packing.py            # minutes, on a machine with a GPU

Trials: the quickstart's student without a teacher, on its signs, at 96 pixels. What is timed goes from the first worker's
start to the last trial's end, with logging to sqlite: starting processes is in it, for both sides.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import ray
from ratio import heading, not_measured, record

from dmkd.config import Config
from dmkd.space import override
from sweeps.cluster import QUIET, ROOT, Resources, find_resources, run_tuner
from sweeps.occupant import Card
from sweeps.packing import fill, most_at_once, share
from sweeps.quickstart import BASE, UNDISTILLED
from sweeps.shared import Shared
from sweeps.trial import read_done

NAME = "GPU packing: seconds a trial, the chosen packing over one by one"
GOAL = 0.5
TRIALS, EPOCHS, STEPS = 16, 5, 60


def trial() -> Config:
    """What each trial trains; they differ in their seed."""
    method = replace(UNDISTILLED, batches=replace(UNDISTILLED.batches, iterations=STEPS))
    workers = {"data.workers": 2, "student.resolution": 96}
    return override(BASE, {"method": method, "optim.epochs": EPOCHS, "optim.precision": "bf16"} | workers)


def seconds(config: Config, resources: Resources, trials: int) -> float:
    """Wall seconds of so many trials through the sweep's own Tuner. Raises where one of them failed."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "trials"
        place.mkdir()
        shared = Shared(config, place, f"sqlite:///{folder}/mlflow.db", "packing", "packing", None, "val/recall_at_1", {})
        jobs = [{"key": f"seed{seed}", "values": {"seed": seed}, "tags": {}} for seed in range(trials)]
        started = time.perf_counter()
        run_tuner("packing", shared, resources, trials, runs=jobs)
        taken = time.perf_counter() - started
        ended = [(read_done(place / str(job["key"])) or {}).get("status") for job in jobs]
        if set(ended) != {"finished"}:
            raise RuntimeError(f"wanted every trial finished, found {ended}")
        return taken


def compare(config: Config, card: type[Card] = Card, trials: int = TRIALS) -> None:
    """Probe, then both sides, each once: whole trials are long."""
    whole = find_resources(1.0, config.data.workers, None)
    most = most_at_once(whole.cpus, whole.at_once, trials)
    with card(config, whole.cpus, most) as seats:
        found = fill(seats, most)
    print("\n".join(found.lines()), flush=True)
    packed = find_resources(share(found.packing.trials), config.data.workers, None)
    seconds(config, packed, packed.at_once)  # decoded pictures, compiled files: whoever comes first would pay for both
    ours, alone = seconds(config, packed, trials), seconds(config, whole, trials)
    note = f"{found.packing.trials} to a card of {whole.at_once}; the probe promised {found.packing.speedup:.2f} x the images"
    print(f"  trials an hour: {3600 * trials / ours:.0f} packed, {3600 * trials / alone:.0f} one by one", flush=True)
    record(NAME, [ours / trials], [alone / trials], peer_name="--gpus-per-trial 1", goal=GOAL, clock="wall", note=note)


def main() -> None:
    os.environ |= QUIET | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    warnings.simplefilter("ignore")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it looks for logs that nobody wrote
    import torch

    heading()
    if not torch.cuda.is_available():
        not_measured(NAME, goal=GOAL, command="python benchmarks/bench_packing.py", why="no GPU here")
        return
    ray.init(address="local", num_gpus=1, include_dashboard=False, log_to_driver=False)
    compare(trial())


if __name__ == "__main__":
    main()

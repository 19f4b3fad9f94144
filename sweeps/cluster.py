"""Ray: join the running cluster or start a local one, and run trials on it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from dmkd.errors import SweepError
from sweeps.folder import DONE
from sweeps.guard import LOST, Guard, Reaper
from sweeps.interrupts import own_interrupts
from sweeps.progress import Progress
from sweeps.rows import Job
from sweeps.trial import Shared, Trial, read_done
from sweeps.unfit import Fifo, Request

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Epochs without a validation and failed trials report no objective, on purpose.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment of the driver, where the user has not set it."""


ROOT = Path(__file__).resolve().parent.parent
"""Holds the packages dmkd, sweeps and tracking."""

MOST = 1_000_000
"""Trials where the searcher alone decides when to end."""

MAX_FAILURES = 50
"""How often Tune starts a trial again whose worker ended. `sweeps.attempts` gives up much earlier where it gets no further; this
bounds preemptions, and workers that never come up."""


@dataclass(frozen=True)
class Resources:
    """What one trial takes."""

    cpus: int
    gpus: float
    at_once: int


def connect() -> bool:
    """Join the cluster of $RAY_ADDRESS, of the surrounding job or of this machine, or start a local one (then True)."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    for name in ("ray.tune", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A worker that ended is told in a line of ours (`sweeps.guard`), its reason in the trial's run.
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return False
    asked = os.environ.get("RAY_ADDRESS", "")
    where = (asked or _running_here()).removeprefix("local")  # as Ray has it: local is a new one, whatever runs here
    print(f"dmkd: {'joining Ray at ' + where if where else 'starting Ray (10 to 20 s)'}", file=sys.stderr, flush=True)
    if not where:  # workers of a local Ray import what this process imports, installed or not
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    ray.init(where or "local", logging_level=logging.ERROR, log_to_driver=False, include_dashboard=None if where else False)
    return not where


def _running_here() -> str:
    """The cluster last started on this machine, as Ray notes it, if it answers: Ray would wait minutes for a dead one."""
    from ray._common.utils import get_ray_address_file

    note = Path(get_ray_address_file(None))
    with suppress(OSError, ValueError):
        address = note.read_text().strip()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=3):
            return address
    return ""


def disconnect(started: bool) -> None:
    """Make sure that no worker of this sweep lives on: end the local Ray that `connect` started, or give killed workers time."""
    if started:
        ray.shutdown()
    time.sleep(2)


def find_resources(gpus: float | None, workers: int, at_once: int | None) -> Resources:
    """CPUs and GPUs of a trial on this cluster. Raises `SweepError` where no node can hold one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return fitted(nodes, gpus, workers, at_once)


def fitted(nodes: Sequence[Mapping[str, float]], gpus: float | None, workers: int, at_once: int | None) -> Resources:
    """The same from what each node has: a trial lives on one node, so what it asks for has to fit there."""
    gpus_there = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    share = gpus if gpus is not None else float(gpus_there > 0)
    if share > gpus_there:
        what = f"at most {gpus_there:g} on a node" if gpus_there else "no GPU"
        raise SweepError(
            f"--gpus-per-trial {share:g}: this Ray cluster has {what}: ask for less, or leave it out to train on CPUs"
        )
    if not share:
        cpus = max(1, min(1 + workers, int(max((node.get("CPU", 0.0) for node in nodes), default=1.0))))
        fit = max(1, sum(int(node.get("CPU", 0.0)) // cpus for node in nodes))
        return Resources(cpus, 0.0, min(at_once or fit, fit))
    # A card is shared by whole trials: 0.6 of a card leaves room for one trial on each.
    slots = [
        (int(node["GPU"] // share if share >= 1 else int(node["GPU"]) * int(1 / share)), node)
        for node in nodes
        if node.get("GPU")
    ]
    slots = [(count, node) for count, node in slots if count and node.get("CPU", 0.0) >= 1]
    if not slots:
        raise SweepError(f"--gpus-per-trial {share:g}: no node has a CPU beside its GPU for a trial: start Ray with --num-cpus")
    cpus = max(1, min(int(node["CPU"]) // count for count, node in slots))
    fit = sum(min(count, int(node["CPU"]) // cpus) for count, node in slots)
    return Resources(cpus, share, min(at_once or fit, fit))


def run_tuner(stage: str, shared: Shared, resources: Resources, total: float, **tuning: Any) -> set[str]:
    """Run trials until the searcher, or the list `runs`, is done; the keys of those that died. `tuning`: see `TuneConfig`."""
    runs, more = tuning.pop("runs", None), tuning.pop("callbacks", ())
    trainable = tune.with_parameters(tuning.pop("trainable", Trial), shared=shared)
    request, scheduler = Request(resources.cpus, resources.gpus, shared.folder.parent), tuning.pop("scheduler", None) or Fifo()
    scheduler.request = request
    folder, progress = shared.folder.parent / "ray", Progress(stage, total, shared.objective)
    tuner = tune.Tuner(
        tune.with_resources(trainable, request),
        param_space={"run": tune.grid_search(runs)} if runs is not None else {},
        tune_config=tune.TuneConfig(
            num_samples=int(min(total, MOST)) if runs is None else 1,
            max_concurrent_trials=resources.at_once,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            reuse_actors=True,
            scheduler=scheduler,
            **tuning,
        ),
        run_config=tune.RunConfig(
            name=f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=str(folder),
            verbose=0,
            callbacks=[progress, Guard(shared.folder, storage=shared.storage), Reaper(replace(shared, weights={})), *more],
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
        ),
    )
    with own_interrupts():
        tuner.fit()
    shared.storage.refresh()
    shared.storage.save()
    # What Tune writes about its own trials is of no use after it has ended: the study and our folders are the truth.
    shutil.rmtree(folder, ignore_errors=True)
    return progress.died


def run_jobs(stage: str, jobs: Sequence[Job], shared: Shared, resources: Resources, *, rerun_failed: bool) -> dict[str, Any]:
    """Run what is not yet done of a fixed list; how each ended, by key. A job without an entry was interrupted."""
    for job in jobs if rerun_failed else ():
        if (read_done(shared.folder / job.key) or {}).get("status") == "failed":
            shared.storage.amend(shared.folder / job.key, drop=[DONE])
    waiting = [job for job in jobs if read_done(shared.folder / job.key) is None]
    runs = [{"key": job.key, "values": job.values, "tags": dict(job.tags)} for job in waiting]
    died = run_tuner(stage, shared, resources, len(runs), runs=runs) if runs else set()
    lost = {"status": "failed", "reason": LOST, "metrics": {}}
    ended = {job.key: read_done(shared.folder / job.key) or (lost if job.key in died else None) for job in jobs}
    return {key: done for key, done in ended.items() if done is not None}

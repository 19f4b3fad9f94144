"""Watching over trials from the driver: a worker that says nothing is ended, and one that never comes back leaves no open run."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune

from dmkd.errors import SweepError
from sweeps.checks.survey import live_nodes, node_name
from sweeps.fence import TOKEN
from sweeps.folder import DONE, ended, read_done, read_progress
from sweeps.shared import Shared
from sweeps.storage import MOUNTED, Storage
from sweeps.unfit import known, left
from sweeps.watch import silence
from tracking.heartbeat import HEARTBEAT, interval, lost_after, read_beat

LOST = "its worker process ended without a word, again and again (killed, or out of memory): see the trial's run and Ray's logs"
_log = logging.getLogger("tracking")


class Backoff:
    """Pauses before a worker is begun again that never was up (no memory, a node that goes), doubled from `first` to `most` s.

    Trials that lose their workers together wait once. With `MAX_FAILURES` attempts a machine has about 24 minutes to recover, and
    a head that is gone ends its driver within a minute all the same. The driver waits here itself: no longer than Ctrl-C may.
    """

    def __init__(self, first: float = 5.0, most: float = 30.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self.first, self.most, self._sleep = first, most, sleep
        self._next, self._ended = first, -math.inf
        self._served: set[str] = set()
        """Trials for which the last pause counts."""

    def wait(self, trial: str) -> None:
        """Pause, unless another trial has just done so."""
        if trial not in self._served and time.monotonic() - self._ended < self.first:
            self._served.add(trial)
            return
        self._sleep(self._next)
        self._next, self._ended, self._served = min(2 * self._next, self.most), time.monotonic(), {trial}

    def over(self) -> None:
        """A worker was up: the next trouble begins with the first pause."""
        self._next = self.first


class Guard(tune.Callback):
    """In the driver: ends workers whose heartbeat stops (frozen, or alone on a dead node), told by this process's own clock."""

    def __init__(self, folder: Path, end: Callable[[Any], None] | None = None, storage: Storage = MOUNTED) -> None:
        self.folder, self._end, self._storage = folder, end or _kill, storage
        self._seen: dict[str, tuple[int, float, int]] = {}
        """Trial id -> the last beat, when it was seen, and how many were since the worker began."""
        self._looked = time.monotonic()
        self._begun: dict[str, int] = {}
        self._unfit: set[str] = set()
        self.backoff = Backoff()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Another worker: what an earlier one left says nothing about it, its own first beat does."""
        self._seen[trial.trial_id] = (self._beat(trial), time.monotonic(), 0)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its worker ended: say so in a line, where Tune would show a traceback of its own.

        Where it had not even begun, the cluster is in trouble: back off, for Tune would use up its attempts in seconds.
        """
        self._seen.pop(trial.trial_id, None)
        key = _key(trial)
        if nodes := left(self.folder.parent, key, self._storage):
            self._say_unfit(nodes, key)
            return
        self._storage.refresh(self.folder / key)
        token = int((read_beat(self.folder / key / TOKEN) or {}).get("token", 0))
        if self._begun.get(trial.trial_id, 0) == token:
            print(f"  {key}: its worker ended before it began; trying again", file=sys.stderr, flush=True)
            self.backoff.wait(trial.trial_id)
            return
        self.backoff.over()
        self._begun[trial.trial_id] = token
        epoch = read_progress(self.folder / key).get("epoch", 0)
        print(f"  {key}: its worker ended; the trial goes on from epoch {epoch} at most", file=sys.stderr, flush=True)

    def _say_unfit(self, nodes: set[str], key: str) -> None:
        """A line for each node, the first time that a trial has come back from it."""
        names = {str(node["NodeID"]): node_name(node) for node in live_nodes()}
        for node in nodes - self._unfit:
            why = known(self.folder.parent).get(node, "its pictures are others")
            print(f"dmkd: node {names.get(node, node[:6])} takes no trial of this sweep: {why}", file=sys.stderr, flush=True)
        self._unfit |= nodes
        print(f"  {key}: goes to another node", file=sys.stderr, flush=True)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look at every running trial, and save the study, now and then. Raises `SweepError` where another driver has it."""
        if time.monotonic() - self._looked < interval() / 3:
            return
        self._looked = time.monotonic()
        self._storage.save()
        for trial in trials:
            if trial.status == "RUNNING" and self.silent(trial):
                self._seen.pop(trial.trial_id)
                self._end(trial)

    def silent(self, trial: Any) -> bool:
        """Whether a worker beats no more; one that never did has the time that a hung one has."""
        beat = self._beat(trial)
        last, since, beats = self._seen.get(trial.trial_id, (beat, self._looked, 0))
        if beat != last:
            since, beats = self._looked, beats + 1
        self._seen[trial.trial_id] = (beat, since, beats)
        return self._looked - since > lost_after() + (0 if beats else silence())

    def _beat(self, trial: Any) -> int:
        return int((read_beat(self.folder / _key(trial) / HEARTBEAT) or {}).get("beat", 0))


def _key(trial: Any) -> str:
    return str(trial.config.get("run", trial.config)["key"])


def _kill(trial: Any) -> None:
    actor = trial.temporary_state.ray_actor
    print(
        f"dmkd: a worker was silent for {lost_after():g} s and is ended; its trial goes on from its last epoch", file=sys.stderr
    )
    if actor is not None:
        ray.kill(actor)


class Reaper(tune.Callback):
    """In the driver: a trial that Tune gives up leaves no open run behind."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its worker died for good."""
        key = _key(trial)
        threading.Thread(target=close_lost, args=(self.shared, key, LOST), name=f"reap {key}").start()


def close_lost(shared: Shared, key: str, reason: str) -> None:
    """End a trial that no worker will end: in its folder, and its run as FAILED with the reason. Without a tracker: spooled."""
    from tracking.errors import TrackingError
    from tracking.runs import start_run

    folder = shared.folder / key
    try:
        shared.storage.refresh(folder)
        if read_done(folder) is not None:
            return
        shared.storage.amend(folder, {DONE: ended("failed", reason, read_progress(folder).get("metrics", {}))})
        run = start_run(
            shared.tracking_uri, shared.experiment, key, key=f"{shared.sweep}/{key}", params={}, tags={}, spool=shared.spool
        )
        run.finish("FAILED", reason)
    except (TrackingError, SweepError, OSError) as error:
        _log.warning("%s: it could not be closed: %s", key, error)

"""One trial: the shared trainer inside Ray Tune's class API, one `step` an epoch."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from ray import tune
from ray.actor import exit_actor

from dmkd.errors import LoaderDied, SweepError
from dmkd.space import override
from sweeps.attempts import Attempts
from sweeps.checks.pictures import check_pictures
from sweeps.fence import Away, Fence, Superseded
from sweeps.folder import STOPPED, add_history, add_progress, keep_best, read_done, read_progress, resumed, write_done
from sweeps.memory import Careful
from sweeps.naming import log_datasets, log_outcome, open_run
from sweeps.rows import settled
from sweeps.share import by_share, card_lost, keep_to_share, no_card, share_pictures
from sweeps.shared import Shared
from sweeps.signals import Notice, Preempted, grace
from sweeps.stopwatch import costs
from sweeps.unfit import planned, wrong_node
from sweeps.watch import Watchdog
from sweeps.weights import take

__all__ = ["STOPPED", "Shared", "Trial", "read_done"]

if TYPE_CHECKING:
    from dmkd.checkpoint import State
    from dmkd.trainer import Epoch
    from tracking.runs import Run

ENDS = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED", "interrupted": "KILLED"}
"""How a trial ends -> how its MLflow run does."""


class Trial(tune.Trainable):
    """`config`: `{"key", "values", "tags"}`; `shared`: see `Shared`. A failure is a result with its reason, never a crash."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        """Note what there is to do. Nothing is touched: Tune also makes workers that it does not use, beside the one at work."""
        assert shared is not None, "made by tune.with_parameters(Trial, shared=...)"
        self.job = job = config.get("run", config)
        self.shared = shared = shared.storage.here(shared)
        self.folder = shared.folder / job["key"]
        self.status, self.reason = "interrupted", ""
        self.progress: dict[str, Any] = {"epoch": 0, "metrics": {}, "best": None, "history": []}
        self.run: Run | None = None
        self.epochs: Iterator[Epoch] = iter(())
        self.notice, self.attempts = Notice(), Attempts(self.folder)
        self.fence: Fence | None = None
        self.watchdog: Watchdog | None = None

    def begin(self) -> None:
        """Take the trial, build the configuration, open the run, and go on from the saved state if there is one."""
        share_pictures()
        if card_lost() or wrong_node(self.shared, self.job, self.trial_resources):
            self._exit()
        try:
            with self._leaving():
                self.fence = self.shared.storage.take(self.folder)
                self.watchdog = Watchdog(self.folder, self.shared.silence, keep=self.fence.keep)
                with self.watchdog.working():
                    self._open(self.job)
        except Exception as error:  # Ray would start a worker that raises again; what cannot work must not be
            self._failed(error)

    def _open(self, job: Mapping[str, Any]) -> None:
        keep_to_share(self.trial_resources)
        self.settings = settings = settled(override(self.shared.base, job["values"]))
        self.progress |= read_progress(self.folder)
        if done := read_done(self.folder):  # it ended, but its driver died before it heard so
            self.status, self.reason = done["status"], done["reason"]
            return
        with self._fence().writing():
            refusal = self.attempts.begin(self.shared.driver)
            (self.folder / STOPPED).unlink(missing_ok=True)
        tagged = {**job, "tags": {**job["tags"], **no_card(self.trial_resources)}}
        self.run = open_run(self.shared, settings, tagged, self._fence().allowed)
        if refusal:
            raise SweepError(refusal)
        self.shared.storage.fetch(settings.teacher.checkpoint, settings.student.checkpoint)
        take(self.shared.weights, settings)
        check_pictures(settings.data, planned(self.shared, job))
        self.epochs = Careful(settings, self._state, self.folder, self.run.set_tags)

    def _fence(self) -> Fence:
        assert self.fence is not None
        return self.fence

    def _state(self) -> State | None:
        """Where to go on, if anywhere."""
        assert self.run is not None
        state = resumed(self.folder, self.run, self.progress["epoch"])
        if state is None:
            self.progress = {"epoch": 0, "metrics": {}, "best": None, "history": []}
        return state

    def step(self) -> dict[str, Any]:
        """One epoch: train, log, keep the best, save the state."""
        if self.fence is None:
            self.begin()
        try:
            if self.status == "interrupted":
                assert self.watchdog is not None
                with self._leaving(), self.watchdog.working():
                    self._epoch()
        except LoaderDied as error:
            self._retry(error)
        except Exception as error:
            self._failed(error)
        if self.status == "failed":
            return {"done": True, "failed": self.reason, "epoch": self.progress["epoch"]}
        done = self.status in ("finished", "pruned")
        return {**self.progress["metrics"], "epoch": self.progress["epoch"], "history": self.progress["history"], "done": done}

    def _epoch(self) -> None:
        with self.notice.epoch():
            epoch = next(self.epochs, None)
        if epoch is not None:
            self._keep(epoch)
        if self.progress["epoch"] >= self.settings.optim.epochs:
            self._end("finished")
        elif self.notice.given:
            raise Preempted

    def _keep(self, epoch: Epoch) -> None:
        """The checkpoint comes before the log, the log before the state: what is killed in between is done again, not lost.

        Raises `Superseded`, and writes nothing, where another worker continues the trial.
        """
        from dmkd.checkpoint import save_state

        first = not self.progress["metrics"]
        metrics = by_share(epoch.metrics, self.trial_resources) | (costs(epoch, self.shared) if first else {})
        value, best = metrics.get(self.shared.objective), self.progress["best"]
        assert self.run is not None
        with self._fence().writing():
            if keep_best(self.folder, epoch, self.settings, self.shared.objective, best):
                best = value
            if first:
                log_datasets(self.run, self.settings, epoch.training.parts)
            self.run.log(metrics, epoch.number, add_history(self.folder, epoch.number, metrics))
            self.progress = add_progress(self.folder, self.progress, epoch.number, metrics, value=value, best=best)
            if epoch.number < self.settings.optim.epochs:
                save_state(epoch.state, self.folder / "state")

    def _end(self, status: str) -> None:
        """Send what the run leaves behind, close it, and note that it is over."""
        assert self.run is not None
        with self._fence().writing():
            # One that was stopped early is no candidate: its curve is kept, its weights are not.
            kept = ("evaluation",) if status == "pruned" else ("checkpoint", "evaluation")
            log_outcome(self.run, self.settings, [self.folder / name for name in kept])
            self._over(status)
            for name in ("state", "checkpoint") if status == "pruned" else ("state",):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        self._close(status)

    def _failed(self, error: Exception) -> None:
        with self._leaving():
            if self.fence is not None and not self.fence.mine():
                raise Superseded(f"{self.folder.name}: {error}, but another worker continues this trial")
        self.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self._close("failed")

    def _over(self, status: str) -> None:
        """On disk it is over: in the spool, then in the folder. What is killed in between ends again, in the same way."""
        if self.run is not None:
            self.run.end(ENDS[status], self.reason)
        if status != "interrupted":
            write_done(self.folder, status, self.reason, self.progress["metrics"])
        self.attempts.ended()

    def _close(self, status: str, patience: float | None = None) -> None:
        """It is over; give the tracker its time."""
        self.epochs = iter(())  # processes that load the next epoch would hold what the run gives back
        # Where the disk is full, the driver hears the reason all the same.
        with self._leaving(), suppress(OSError), self.fence.writing() if self.fence is not None else nullcontext():
            self._over(status)
        self.status = status
        if self.run is not None:
            with suppress(OSError):
                self.run.finish(ENDS[status], self.reason, patience)
        self._rest()

    def _rest(self) -> None:
        if self.watchdog is not None:
            self.watchdog.stop()

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """Inside, what takes the trial from this worker ends it."""
        try:
            yield
        except (Superseded, Preempted, Away) as ended:
            self._leave(ended)

    def _leave(self, ended: Superseded | Preempted | Away) -> None:
        """End this worker process in order: told to (it goes on elsewhere), or because it cannot write its trial any more."""
        if not isinstance(ended, Preempted):
            print(f"dmkd: {ended}", file=sys.stderr)
            os._exit(0)  # not one byte more
        self.reason = f"preempted (SIGTERM): goes on from epoch {self.progress['epoch']}"
        self._close("interrupted", patience=min(5.0, grace() / 2))
        self._fence().close()
        self._exit()

    def _exit(self) -> NoReturn:
        if self.trial_id != "default":  # in a worker of Ray
            exit_actor()  # type: ignore[no-untyped-call]
        raise SystemExit(143)

    def _retry(self, error: LoaderDied) -> None:
        """Tune starts the trial again, from its last epoch; the second time is a failure (`Attempts`)."""
        with self._fence().writing():
            self.attempts.died(str(error))
        if self.run is not None:
            self.run.finish("KILLED", f"{error}; goes on from epoch {self.progress['epoch']}")
        self._rest()
        raise error

    def cleanup(self) -> None:
        """Close a run that was stopped: by the scheduler, which leaves a marker, or in the middle, to be resumed."""
        self.epochs = iter(())
        self._rest()
        if self.fence is None:
            return
        with self._leaving():
            if self.status == "interrupted" and self.fence.mine():
                self._stopped(self.shared.storage.stopped(self.folder))
        self.fence.close()

    def _stopped(self, why: str | None) -> None:
        self.reason = why or "interrupted: --resume goes on"
        if why is None:
            self._close("interrupted")
        else:
            self._end("pruned")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial into this process: starting one anew costs seconds."""
        self.cleanup()
        self.setup(new_config)  # tune.with_parameters adds `shared`
        return True

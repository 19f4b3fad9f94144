"""One trial: the shared trainer inside Ray Tune's class API, one `step` an epoch."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from dmkd.config import Config, config_hash
from dmkd.errors import CheckpointError
from dmkd.space import flatten, override
from sweeps.rows import settled

if TYPE_CHECKING:
    from dmkd.trainer import Epoch
    from tracking.runs import Run

STOPPED = "stopped-early"
"""Marker file in a trial's folder: the scheduler stopped it, it was not interrupted."""

DONE = "done.json"
"""Written when a run is over: `{"status", "reason", "metrics"}`. A run that has it is not repeated."""

ENDS = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED", "interrupted": "KILLED"}
"""How a trial ends -> how its MLflow run does."""


@dataclass(frozen=True)
class Shared:
    """What every trial of a stage has in common."""

    base: Config
    folder: Path
    """Holds one folder per run, named by its key: state, checkpoint, evaluation."""
    tracking_uri: str
    experiment: str
    sweep: str
    """Begins the tracker's key of every run, so that a restarted trial continues its run."""
    parent: str | None
    """The sweep's parent run."""
    objective: str
    """The best epoch by this metric keeps its checkpoint; without it the last epoch does."""
    tags: Mapping[str, str]


class Trial(tune.Trainable):
    """`config`: `{"key", "values", "tags"}`; `shared`: see `Shared`. A failure is a result with its reason, never a crash."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        """Build the configuration, open the run, and go on from the saved state if there is one."""
        assert shared is not None, "made by tune.with_parameters(Trial, shared=...)"
        job = config.get("run", config)
        self.shared, self.folder = shared, shared.folder / job["key"]
        self.status, self.reason = "interrupted", ""
        self.progress: dict[str, Any] = {"epoch": 0, "metrics": {}, "best": None, "history": []}
        self.run: Run | None = None
        self.epochs: Iterator[Epoch] = iter(())
        try:
            self._open(job)
        except Exception as error:  # Ray would start a worker that raises again; what cannot work must not be
            self._failed(error)

    def _open(self, job: Mapping[str, Any]) -> None:
        import torch

        from dmkd.checkpoint import load_state
        from dmkd.trainer import fit
        from tracking.runs import start_run

        resources = self.trial_resources
        torch.set_num_threads(int(resources.required_resources.get("CPU", 1)) if resources else 1)
        self.settings = settings = settled(override(self.shared.base, job["values"]))
        self.folder.mkdir(parents=True, exist_ok=True)
        if done := read_done(self.folder):  # it ended, but its driver died before it heard so
            self.status, self.reason = done["status"], done["reason"]
            self.progress |= _progress(self.folder)
            return
        (self.folder / STOPPED).unlink(missing_ok=True)
        self.run = start_run(
            self.shared.tracking_uri,
            self.shared.experiment,
            run_name(settings, job["tags"] | dict(self.shared.tags)),
            key=f"{self.shared.sweep}/{job['key']}",
            parent_id=self.shared.parent,
            params=flatten(settings),
            tags=run_tags(settings) | dict(self.shared.tags) | dict(job["tags"]),
        )
        state = None
        try:
            if (self.folder / "state").exists():
                state = load_state(self.folder / "state")
                self.progress = _progress(self.folder)
        except CheckpointError as error:  # killed while its first state was written, or every state is damaged
            self.run.set_tags({"dmkd.resume": f"started afresh: {error}"})
        self.epochs = fit(settings, state)

    def step(self) -> dict[str, Any]:
        """One epoch: train, log, keep the best, save the state."""
        try:
            epoch = next(self.epochs, None) if self.status == "interrupted" else None
            if epoch is not None:
                self._keep(epoch)
            if self.status == "interrupted" and self.progress["epoch"] >= self.settings.optim.epochs:
                self._end("finished")
        except Exception as error:
            self._failed(error)
        if self.status == "failed":
            return {"done": True, "failed": self.reason, "epoch": self.progress["epoch"]}
        done = self.status in ("finished", "pruned")
        return {**self.progress["metrics"], "epoch": self.progress["epoch"], "history": self.progress["history"], "done": done}

    def _keep(self, epoch: Epoch) -> None:
        """The checkpoint comes before the log, the log before the state: what is killed in between is done again, not lost."""
        from dmkd.checkpoint import save_state
        from dmkd.run import is_better, save_checkpoint, write_all_outcomes

        first = not self.progress["metrics"]
        metrics = epoch.metrics | (epoch.training.model_costs if first else {})
        value, best = metrics.get(self.shared.objective), self.progress["best"]
        if is_better(epoch, self.shared.objective, best):
            save_checkpoint(epoch, self.settings, self.folder / "checkpoint")
            write_all_outcomes(epoch, self.settings, self.folder / "evaluation")
            best = value
        assert self.run is not None
        self.run.log(metrics, step=epoch.number)
        finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
        history = [point for point in self.progress["history"] if point[0] < epoch.number]
        history += [[epoch.number, value]] if value is not None else []
        self.progress = {"epoch": epoch.number, "metrics": finite, "best": best, "history": history}
        _write(self.folder / "progress.json", self.progress)
        if epoch.number < self.settings.optim.epochs:
            save_state(epoch.state, self.folder / "state")

    def _end(self, status: str) -> None:
        """Send what the run leaves behind, close it, and note that it is over."""
        assert self.run is not None
        from dmkd.config import to_yaml

        self.run.log_text(to_yaml(self.settings), "config.yaml")
        self.run.log_text(environment(), "environment.txt")
        for name in ("checkpoint", "evaluation"):
            if (self.folder / name).is_dir():
                self.run.log_artifact(self.folder / name)
        self._close(status)
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def _failed(self, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self._close("failed")

    def _close(self, status: str) -> None:
        self.status = status
        if self.run is not None:
            self.run.finish(ENDS[status], self.reason)
        if status != "interrupted":
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / DONE, {"status": status, "reason": self.reason, "metrics": self.progress["metrics"]})

    def cleanup(self) -> None:
        """Close a run that was stopped: by the scheduler, which leaves a marker, or in the middle, to be resumed."""
        if self.status != "interrupted":
            return
        marker = self.folder / STOPPED
        self.reason = marker.read_text(encoding="utf-8").strip() if marker.exists() else "interrupted: --resume goes on"
        if marker.exists():
            self._end("pruned")
        else:
            self._close("interrupted")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial into this process: starting one anew costs seconds."""
        self.cleanup()
        self.epochs = iter(())
        self.setup(new_config)  # tune.with_parameters adds `shared`
        return True


def run_name(config: Config, tags: Mapping[str, str]) -> str:
    """What the tracker's lists show: "trial 3: yu/absolute", "final trial 3: yu/absolute, seed 1", "teacher"."""
    label = tags.get("dmkd.label", config.method.label)
    name = label if label in ("teacher", "untrained", "undistilled") else f"{label}: {config.method.label}"
    return f"final {name}, seed {config.seed}" if tags.get("dmkd.stage") == "final" else name


def run_tags(config: Config) -> dict[str, str]:
    """The tags that a configuration gives to its run."""
    return {
        "dmkd.config_hash": config_hash(config),
        "dmkd.row": config_hash(config),
        "dmkd.seed": str(config.seed),
        "dmkd.fold": str(config.data.fold),
        "dmkd.method": config.method.label,
    }


def read_done(folder: Path) -> dict[str, Any] | None:
    """How a run ended, or None where it has not."""
    path = folder / DONE
    done: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return done


@lru_cache(maxsize=1)
def environment() -> str:
    """Python and every installed package with its version."""
    from importlib.metadata import distributions

    names = sorted({f"{found.metadata['Name']}=={found.version}" for found in distributions()}, key=str.lower)
    return "\n".join([f"# python {sys.version.split()[0]}", *names]) + "\n"


def _progress(folder: Path) -> dict[str, Any]:
    path = folder / "progress.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _write(path: Path, values: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.replace(path)

"""What every trial of a stage has in common; travels to the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmkd.config import Config
from sweeps.storage import MOUNTED, Storage
from sweeps.watch import SILENCE


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
    latency_on: str = ""
    """Where the latency of a run's network is measured ("cpu:1"); empty: it is not."""
    spool: Path | None = None
    """Where runs wait for the tracker: on the storage, so that what a dead node left is delivered by others."""
    parent_key: str | None = None
    """The parent's own key, for as long as the tracker has not given it an id."""
    driver: str = ""
    """Which driver counts a trial's attempts."""
    silence: float = SILENCE
    """Seconds without a batch after which a trial counts as hung."""
    storage: Storage = MOUNTED
    """Where `folder` really lies."""
    weights: Mapping[str, Any] = field(default_factory=dict)
    """Teachers' weights in Ray's object store, by the SHA-256 of their file (`sweeps.weights`)."""

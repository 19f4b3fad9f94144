"""Latencies of a sweep: one measurement an architecture, kept beside the study, so that equal networks have equal numbers."""

from __future__ import annotations

import fcntl
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tracking.places import write_text

if TYPE_CHECKING:
    from dmkd.models.embedder import EmbeddingNet
    from dmkd.trainer import Epoch
    from sweeps.shared import Shared


def costs(epoch: Epoch, shared: Shared) -> dict[str, float]:
    """What the student costs, its latency among it where the search asks for that."""
    found = dict(epoch.training.model_costs)
    if not shared.latency_on:
        return found
    return found | latency(epoch.model, epoch.training.resolution, shared.latency_on, shared.folder.parent / "latency")


def latency(net: EmbeddingNet, resolution: int, place: str, folder: Path) -> dict[str, float]:
    """`model/latency_ms`, the median, and `model/latency_p95_ms` of one picture (`dmkd.latency`).

    Whoever comes first measures; a second run that wants to measure waits, so that the two do not disturb each other. Runs that
    train beside it do: on a busy machine give trials whole nodes, or measure on a device that does not train.
    """
    from dmkd.latency import measure_latency

    folder.mkdir(parents=True, exist_ok=True)
    network = net.network
    told = (network.backbone, network.pooling, network.dim, network.projection, resolution, place)
    path = folder / f"{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}.json"
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists():
            write_text(path, json.dumps({"network": told} | asdict(measure_latency(net, resolution, place))))
    found = json.loads(path.read_text(encoding="utf-8"))
    return {"model/latency_ms": float(found["median_ms"]), "model/latency_p95_ms": float(found["p95_ms"])}

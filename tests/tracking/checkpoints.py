"""Checkpoints as dmkd writes them, small, and runs that hold one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tracking.runs import log_run


def checkpoint(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    save_file({"w": np.full((3, 2), value, np.float32)}, folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps({"format": "dmkd-model-1", "checksums": {"weights.safetensors": digest}}))
    return folder


def logged(uri: str, folder: Path, *, name: str = "x", val: float = 0.5, row: str = "aaaaaaaa1111", experiment: str = "e") -> str:
    tags = {"dmkd.config_hash": row, "dmkd.protocol": "p1", "dmkd.method": "yu", "dmkd.stage": "search", "dmkd.seed": 0}
    with log_run(uri, experiment, name, params={}, tags=tags) as written:
        written.log({"val/recall_at_1": val}, 1)
        written.log_artifact(folder, "checkpoint")
        written.log_text("seed: 0\n", "config.yaml")
    assert written.id
    return written.id


def spoil_weights(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)

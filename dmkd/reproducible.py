"""Seeds, and the state of every global random generator: what makes a resumed run equal an undisturbed one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmkd.errors import CheckpointError


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices): libraries of the field draw from each."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of those generators as plain containers, numbers and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def restore_random(saved: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `random_state` gave."""
    torch.set_rng_state(saved["torch"].cpu())
    if saved["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"].cpu(), device)
    name, keys, *rest = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))


def plain(value: Any) -> bool:
    """Whether a value may stand in a state: a number, a string, or a container of such."""
    if isinstance(value, dict):
        return all(plain(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(plain(item) for item in value)
    return isinstance(value, (int, float, str, bool, type(None)))


def copied(value: Any) -> Any:
    """A deep copy with tensors detached and on the CPU, tuples as lists."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return value


def same_run(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A state may only be continued by the run that made it; where the data lie and how often to evaluate may change."""
    for config in (saved, wanted):
        config["data"] = {key: value for key, value in config["data"].items() if key not in ("root", "workers")}
    free = {"evaluation"}
    different = [key for key in wanted if key not in free and saved.get(key) != wanted[key]]
    if different:
        found, want = {key: saved.get(key) for key in different}, {key: wanted[key] for key in different}
        raise CheckpointError(f"this state belongs to another configuration: it has {found}, wanted {want}; start without it")

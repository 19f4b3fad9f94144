"""A trial's share of its node: the CPU threads and the GPU memory that its worker keeps to, the pictures that all have."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

from dmkd import packing
from dmkd.data.cache import SHARE

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory


def memory_share(gpus: float) -> float:
    """Share of a card's memory for a trial that asks for `gpus` (0 to 1) of one: as many as fit fill it but for the reserve."""
    return packing.memory_share(int(1 / gpus)) if 0 < gpus < 1 else 1.0


def keep_to_share(resources: PlacementGroupFactory | None) -> None:
    """Hold this worker to what Ray gave its trial, so that it runs out of memory by itself and not its neighbours.

    What the trial before it in this process has left on the card is given back.
    """
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()  # networks of the trial before, where they lie in cycles
        torch.cuda.empty_cache()
    given = resources.required_resources if resources else {}
    torch.set_num_threads(int(given.get("CPU", 1)))
    gpus = float(given.get("GPU", 0.0))
    if resources and not gpus:  # of no card: Ray leaves all of them in sight, and every trial would train on the first
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if 0 < gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(memory_share(gpus))


def by_share(metrics: dict[str, float], resources: PlacementGroupFactory | None) -> dict[str, float]:
    """An epoch's metrics, `cost/gpu_seconds` counted by the share of a card: four trials on one for an hour are one GPU hour."""
    name = "cost/gpu_seconds"
    gpus = float(resources.required_resources.get("GPU", 0.0)) if resources else 0.0
    return metrics | {name: gpus * metrics[name]} if gpus and name in metrics else metrics


def no_card(resources: PlacementGroupFactory | None) -> dict[str, str]:
    """A tag for a trial that was given a card, or a share of one, and trains on the CPU, for torch sees none; else nothing."""
    import torch

    gpus = float(resources.required_resources.get("GPU", 0.0)) if resources else 0.0
    if not gpus or torch.cuda.is_available():
        return {}
    return {"dmkd.device": f"CPU: Ray gave it {gpus:g} of a card, and torch sees none there (`dmkd doctor` says why)"}


def card_lost() -> bool:
    """Whether an earlier trial of this process has left it without its card: after an error inside a kernel (an index out of
    range, a memory error) every call fails until the process ends, and so would every trial that Tune puts into it."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def share_pictures() -> None:
    """Decoded pictures are those of all trials of this machine, unless the user has said otherwise; loaders inherit it."""
    os.environ.setdefault(SHARE, "1")

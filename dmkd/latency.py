"""How long one picture takes: the exported network, batch 1, on a named device with a named number of threads."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from dmkd.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from dmkd.models.embedder import EmbeddingNet

WARM_UP, RUNS = 20, 100


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one picture, over `RUNS` runs after `WARM_UP` that do not count."""

    median_ms: float
    p95_ms: float
    place: str
    """Device and threads, as in "cpu:1"."""


def read_place(text: str) -> tuple[str, int]:
    """ "cpu:4" -> device and threads. Raises `ConfigError`."""
    device, _, threads = text.partition(":")
    if device not in ("cpu", "cuda") or (threads and not threads.isdigit()) or threads == "0":
        raise ConfigError(f"latency on {text!r}: wanted cpu:THREADS or cuda, as in cpu:1")
    return device, int(threads or 1)


def measure_latency(
    net: EmbeddingNet, resolution: int, place: str = "cpu:1", warm_up: int = WARM_UP, runs: int = RUNS
) -> Latency:
    """Export `net` with torch.export and time it on single random pictures of `resolution` px; the weights do not matter.

    Raises `ConfigError` for a place that is not there. The number of threads of this process is restored.
    """
    import torch

    from dmkd.export.precision import Embeds

    device, threads = read_place(place)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"latency on {place!r}: there is no GPU here; say cpu:1")
    picture = torch.rand(1, 3, resolution, resolution, device=device)
    twin, before = net.clone().eval().to(device), torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.export.export(Embeds(twin).eval(), (picture,)).module()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            taken = [_timed(program, picture) for _ in range(warm_up + runs)]
    finally:
        torch.set_num_threads(before)
    times = sorted(taken[warm_up:])
    return Latency(1e3 * median(times), 1e3 * times[min(runs - 1, math.ceil(0.95 * runs) - 1)], f"{device}:{threads}")


def _timed(program: Any, picture: Tensor) -> float:
    started = time.perf_counter()
    program(picture)
    if picture.is_cuda:
        import torch

        torch.cuda.synchronize(picture.device)
    return time.perf_counter() - started

"""Ours against a named peer, in one process and in turn: the same answer first, then the ratio of medians with its spread."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch


def ratio(name: str, ours: Callable[[], object], peer: Callable[[], object], *, peer_name: str, repeats: int = 5) -> float:
    """Time both in turn after one warm-up each; print medians and the ratio ours / peer (lower is better); return it."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeats + 1):
        for who, run in (("ours", ours), ("peer", peer)):
            started = time.perf_counter()
            run()
            times[who].append(time.perf_counter() - started)
    first, second = (times[who][1:] for who in ("ours", "peer"))
    pairs = sorted(a / b for a, b in zip(first, second, strict=True))
    result = statistics.median(first) / statistics.median(second)
    print(
        f"{name}: ours {1e3 * statistics.median(first):.2f} ms, {peer_name} {1e3 * statistics.median(second):.2f} ms, "
        f"ratio {result:.2f} (pairs {pairs[0]:.2f} to {pairs[-1]:.2f}, {repeats} repetitions)"
    )
    return result


def heading() -> None:
    """Which machine and versions the ratios belong to."""
    names = ("torch", "numpy", "faiss-gpu", "pytorch-metric-learning")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"python {platform.python_version()}, {found}, {torch.get_num_threads()} threads, {platform.machine()}")

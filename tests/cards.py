"""A GPU that is only declared: torch's own Python over answers that a driver would give, on a machine that has none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

TOTAL = 80 * 2**30


def declare_card(monkeypatch: pytest.MonkeyPatch, *, free: int = TOTAL, share: float = 1.0) -> None:
    """From now on there is one card, number 0, not in use yet, of whose memory this process may have `share`.

    What torch is asked goes through its own functions; only what lies below them, the driver and torch's allocator, is answered
    here. As the allocator does, so does this one: it knows a card by its number alone, and none before CUDA was started.
    """
    started: list[bool] = []

    def init() -> None:
        started.append(True)

    def current() -> int:
        init()
        return 0

    def asked(number: int) -> int:
        if type(number) is not int or number != 0:
            raise ValueError(f"found card {number!r}, wanted 0")
        return number

    def reset_peak(number: int) -> None:
        if not started or type(number) is not int:
            raise RuntimeError("Invalid device argument")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "current_device", current)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", init)
    memory = SimpleNamespace(cudaMemGetInfo=lambda number: (free, TOTAL) if asked(number) == 0 else None)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: memory)
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda number: share + asked(number), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_resetPeakMemoryStats", reset_peak, raising=False)

"""Networks on a CPU keep the memory that a step gives back, for the next step, where the machine has enough of it.

A step's activations are large blocks. The C library of Linux (glibc's malloc) takes each from the system and gives it back, and
the system fills every page of it with zeros again: a tenth to a half of a step's time (`docs/performance.md`). Kept, they cost
memory instead: blocks of many sizes do not fit each other's places, up to half as much again at the peak.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import torch

ROOM = 2
"""Times a process's own peak that must fit into the memory, for as many processes as its threads leave cores for."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container says how much it may use."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""malloc.h: `M_TRIM_THRESHOLD`, `M_MMAP_THRESHOLD`, `M_MMAP_MAX`."""


class Heap:
    """What a training, or an embedding of many batches, does with the memory of its process.

    Nothing on a GPU, where torch keeps memory itself, nor where the environment sets malloc. Several may be in one process.
    """

    keeping: ClassVar[int] = 0
    """How many of this process keep memory: the last one gives it back."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._settled = self.kept = False

    def after_step(self) -> None:
        """After the first step, whose peak tells what the others will need: keep from now on what they give back, or not."""
        if self._settled:
            return
        self._settled = True
        if self.device.type != "cpu" or any(name.startswith("MALLOC_") for name in os.environ):
            return
        if 0 < ROOM * peak() * _at_once() <= memory():
            self.kept = _mallopt({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1})
            Heap.keeping += self.kept

    def release(self) -> None:
        """It is over: give the memory back to the system, and go on as malloc does where much was given back."""
        if not self.kept:
            return
        self.kept = False
        Heap.keeping -= 1
        if not Heap.keeping:
            _mallopt({_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20})
            ctypes.CDLL(None).malloc_trim(0)


def peak() -> int:
    """The most bytes that this process has held (Linux's `VmHWM`); 0 where that is not told."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return 0


def memory() -> int:
    """Bytes that this machine has, or its container may use; 0 where neither can be told."""
    found = []
    with suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for place in LIMITS:
        with suppress(OSError, ValueError):  # "max": no limit
            found.append(int(place.read_text(encoding="utf-8")))
    return min(found, default=0)


def _at_once() -> int:
    """Trainings like this one that the cores have room for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // torch.get_num_threads())


def _mallopt(options: dict[int, int]) -> bool:
    """Set options of glibc's malloc; False where this is another C library, which has none or others."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - glibc alone has it
        return all(library.mallopt(name, value) == 1 for name, value in options.items())
    return False

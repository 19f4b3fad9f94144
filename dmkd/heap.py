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
CONTROL = Path("/sys/fs/cgroup")
"""Where the system says how much memory a container or a job may use."""
GROUPS = Path("/proc/self/cgroup")
"""And in which of them this process is."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""malloc.h: `M_TRIM_THRESHOLD`, `M_MMAP_THRESHOLD`, `M_MMAP_MAX`."""
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_GIVE_BACK = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}
"""As malloc does by itself where large blocks were given back."""


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
        if self.device.type != "cpu" or _set_by_user():
            return
        if 0 < ROOM * peak() * _at_once() <= memory():
            self.kept = _mallopt(_KEEP)
            Heap.keeping += self.kept

    def release(self) -> None:
        """It is over: give the memory back to the system, and go on as malloc does where much was given back."""
        if not self.kept:
            return
        self.kept = False
        Heap.keeping -= 1
        if not Heap.keeping:
            _mallopt(_GIVE_BACK)
            _trim()


def before_fork() -> None:
    """A process will be made that shares this one's memory until either writes to it: what is kept and not used is given back.

    Else the next step would write to all of it, and the system would have it twice.
    """
    if Heap.keeping:
        _trim()


def after_fork(_number: int = 0) -> None:
    """In the process that was made: it keeps nothing."""
    if Heap.keeping:
        Heap.keeping = 0
        _mallopt(_GIVE_BACK)


def peak() -> int:
    """The most bytes that this process has held (Linux's `VmHWM`); 0 where that is not told."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return 0


def memory() -> int:
    """Bytes that this process has or could have: what the machine has available, or what its container or job may use, if less.

    0 where that is not told.
    """
    found = []
    with suppress(OSError, ValueError, StopIteration, IndexError):
        own = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found.append(own + int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024)
    for place in _limits():
        with suppress(OSError, ValueError):  # "max": no limit
            found.append(int(place.read_text(encoding="utf-8")))
    return min(found, default=0)


def _limits() -> list[Path]:
    """The files that limit this process's group, and the groups that it is in (cgroup 2: `0::/path`; 1: `9:memory:/path`)."""
    lines = ["0::/", "1:memory:/"]
    with suppress(OSError):
        lines += GROUPS.read_text(encoding="utf-8").splitlines()
    places = []
    for line in lines:
        number, kinds, path = [*line.split(":", 2), "", ""][:3]
        root, name = (CONTROL, "memory.max") if number == "0" else (CONTROL / "memory", "memory.limit_in_bytes")
        if number == "0" or "memory" in kinds.split(","):
            group = root / path.lstrip("/")
            places += [folder / name for folder in (group, *group.parents) if folder == root or root in folder.parents]
    return places


def _at_once() -> int:
    """Trainings like this one that the cores have room for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // torch.get_num_threads())


def _set_by_user() -> bool:
    return any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _mallopt(options: dict[int, int]) -> bool:
    """Set options of glibc's malloc; False where this is another C library, which has none or others."""
    library = _glibc()
    return library is not None and [library.mallopt(name, value) for name, value in options.items()] == [1] * len(options)


def _trim() -> None:
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - glibc alone has it
        return library
    return None

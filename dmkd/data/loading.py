"""Making batches in this process or in loading processes, with the same result."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from dmkd import heap, pulse
from dmkd.errors import DataError, LoaderDied

DEAD = ("DataLoader worker", "Pin memory thread exited")
"""In torch's words for a dead process; the second where it took with it the thread that pins, which was reading from it."""


class _Numbered(torch.utils.data.Dataset[Any]):
    """A task as a data set of batches. A `DataError` travels as a value: the loader would wrap its message in a traceback."""

    def __init__(self, task: Callable[[int], Any], length: int) -> None:
        self.task, self.length = task, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Any:
        try:
            return self.task(number)
        except DataError as error:
            return error


def load(task: Callable[[int], Any], length: int, workers: int, *, pin: bool = False) -> Iterator[Any]:
    """`task(0)` .. `task(length - 1)`, in order, made by `workers` processes (0: here). Raises what the task raises, and
    `LoaderDied` within seconds where one of the processes was killed.

    The processes begin at once, before anything is asked for; what each then has ready (torch: two) waits. `pin` puts what they
    make into pinned memory, where there is a GPU.

    Torch's global generator is left alone: a loader of its own accord takes a number from it, and so changes what miners draw.
    """
    if workers == 0:
        return _here(task, length)
    loader = torch.utils.data.DataLoader(
        _Numbered(task, length),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin and torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=heap.after_fork,
    )
    return _told(_begun(loader))


def _here(task: Callable[[int], Any], length: int) -> Iterator[Any]:
    for number in range(length):
        pulse.beat()
        yield task(number)


def _told(batches: Iterator[Any]) -> Iterator[Any]:
    for made in _watched(batches):
        if isinstance(made, DataError):
            raise made
        pulse.beat()
        yield made


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    """What the loader makes; its own words for a dead process turned into ours. Nothing of the reader's is caught."""
    while True:
        try:
            made = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not any(words in str(error) for words in DEAD):
                raise
            raise LoaderDied(f"a data-loading process died ({' '.join(str(error).split())[:200]})") from error
        yield made


def _begun(loader: Any) -> Iterator[Any]:
    """The loader with its processes started, and SIGCHLD as it was.

    Torch would raise from that signal wherever the main thread is by then: in the midst of a step, where nothing can tell whose
    error it is. Whoever waits for the next batch misses a dead process all the same.
    """
    heap.before_fork()
    before = signal.getsignal(signal.SIGCHLD)
    batches: Iterator[Any] = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return batches


def _as_is(made: Any) -> Any:
    return made

"""A data-loading process that is killed, by the kernel say: told within seconds, by name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dmkd import pulse
from dmkd.data.loading import _watched, load
from dmkd.errors import LoaderDied


def slowly(number: int) -> Any:
    time.sleep(0.05)
    return number


def noted(folder: Path, number: int) -> Any:
    (folder / str(number)).touch()
    return number


def test_a_killed_loading_process_is_told_within_a_minute() -> None:
    made = load(slowly, 10_000, workers=2)
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    began = time.monotonic()
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(LoaderDied, match="a data-loading process died"):
        list(made)
    assert time.monotonic() - began < 60


def test_a_step_goes_on_while_a_loading_process_dies() -> None:
    """It is told where the next batch is waited for, not by an error in the midst of whatever is done meanwhile."""
    made = load(slowly, 10_000, workers=2)
    next(made)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    for _ in range(50):
        time.sleep(0.02)
    with pytest.raises(LoaderDied, match="a data-loading process died"):
        list(made)


def test_so_is_one_that_took_the_pinning_thread_with_it() -> None:
    def ended() -> Iterator[Any]:
        yield 0
        raise RuntimeError("Pin memory thread exited unexpectedly")

    with pytest.raises(LoaderDied, match="a data-loading process died"):
        list(_watched(ended()))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_is_a_sign_of_life(workers: int) -> None:
    before = pulse.count()
    assert list(load(slowly, 4, workers)) == [0, 1, 2, 3]
    assert pulse.count() == before + 4


def test_the_processes_begin_before_they_are_asked(tmp_path) -> None:
    made = load(partial(noted, tmp_path), 9, workers=2)
    for _ in range(200):
        if len(list(tmp_path.iterdir())) == 4:
            break
        time.sleep(0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    processes = multiprocessing.active_children()
    assert len(processes) == 2
    del made  # nobody wants them
    assert not any(process.is_alive() for process in processes)


def test_an_error_of_the_reader_is_not_taken_for_a_dead_process() -> None:
    made = load(slowly, 4, workers=2)
    next(made)
    with pytest.raises(RuntimeError, match="DataLoader worker, says the reader"):
        made.throw(RuntimeError("DataLoader worker, says the reader"))  # type: ignore[attr-defined]

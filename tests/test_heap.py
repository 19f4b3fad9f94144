"""Memory that a step gives back and the next one takes again: pages that the system need not fill anew, counted by the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from dmkd import heap
from dmkd.heap import Heap


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    monkeypatch.setattr(Heap, "keeping", 0)


PAGES = """
import os, resource, sys
import torch
from dmkd.heap import Heap
torch.set_num_threads(1)
held = Heap(torch.device("cpu"))
def step():
    blocks = [torch.zeros(size * 2**18) for size in (40, 3, 80, 9, 200, 1)]  # megabytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del blocks
    return before
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
step()
if sys.argv[1] == "keep":
    held.after_step()
[step() for _ in range(3)]
counts = [faults() for _ in range(3)]
rss = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = rss()
held.release()
print(held.kept, max(counts), min(counts), before - rss(), faults())
"""


def pages(how: str, **environment: str) -> list[str]:
    given = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1])} | environment
    done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, env=given, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_pages_are_filled_once_and_given_back_at_the_end():
    _, _, least, _, _ = pages("leave")
    kept, most, _, returned, later = pages("keep")
    assert kept == "False"  # released
    assert int(least) > 40_000  # the blocks have 85,000 pages of 4 KiB; malloc keeps the small ones by itself
    assert int(most) < 1000
    assert int(returned) > 200 * 2**20
    assert int(later) > 40_000  # as malloc does it again


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_who_has_set_malloc_is_left_alone():
    _, _, least, _, _ = pages("keep", MALLOC_ARENA_MAX="2")
    assert int(least) > 40_000


@pytest.mark.parametrize(("times", "threads", "kept"), [(2.1, 4, True), (1.9, 4, False), (2.1, 1, False), (8.1, 1, True)])
def test_memory_is_kept_where_it_suffices_for_all_who_may_run_here(monkeypatch, times, threads, kept):
    told: list[dict[int, int]] = []
    monkeypatch.setattr(heap, "_mallopt", lambda options: told.append(options) or True)
    monkeypatch.setattr(heap, "peak", lambda: 10**9)
    monkeypatch.setattr(heap, "memory", lambda: int(times * 10**9))
    monkeypatch.setattr(heap.os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    held = Heap(torch.device("cpu"))
    held.after_step()
    held.after_step()
    assert (held.kept, len(told)) == (kept, int(kept))


def test_the_last_that_keeps_memory_gives_it_back(monkeypatch):
    told: list[dict[int, int]] = []
    monkeypatch.setattr(heap, "_mallopt", lambda options: told.append(options) or True)
    monkeypatch.setattr(heap, "memory", lambda: 2**60)
    training, embedding = Heap(torch.device("cpu")), Heap(torch.device("cpu"))
    for held in (training, embedding):
        held.after_step()
    embedding.release()
    assert len(told) == 2
    training.release()
    training.release()
    assert (len(told), Heap.keeping) == (3, 0)


def test_a_gpu_is_no_matter_of_malloc(monkeypatch):
    monkeypatch.setattr(heap, "_mallopt", lambda _: pytest.fail("set"))
    Heap(torch.device("cuda")).after_step()


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(heap, "LIMITS", ())
    assert heap.memory() == psutil.virtual_memory().total
    assert 0.5 < heap.peak() / psutil.Process().memory_info().rss < 100
    for text, found in (("max\n", psutil.virtual_memory().total), ("1048576\n", 1048576)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(heap, "LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
        assert heap.memory() == found

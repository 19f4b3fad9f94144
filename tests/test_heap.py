"""Memory that a step gives back and the next one takes again: pages that the system need not fill anew, counted by the system."""

from __future__ import annotations

import os
import platform
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
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)


PAGES = """
import os, resource, sys
import torch
from dmkd.heap import Heap
torch.set_num_threads(len(os.sched_getaffinity(0)))  # so that this process is alone
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
counts = [faults() for _ in range(8)]
rss = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, kept = rss(), held.kept
held.release()
print(int(kept), sum(counts), before - rss(), faults())
"""


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")


def pages(how: str, **environment: str) -> list[int]:
    given = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1])} | environment
    done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, env=given, check=True)
    return [int(word) for word in done.stdout.split()]


@glibc
def test_pages_are_filled_once_and_given_back_at_the_end():
    _, left, _, alone = pages("leave")  # the blocks have 85,000 pages of 4 KiB; malloc keeps the small ones by itself
    kept, filled, returned, later = pages("keep")
    assert kept
    assert 5 * filled < left  # a block may find no place in one step
    assert returned > 200 * 2**20
    assert later > 0.5 * alone  # as malloc does it again


@glibc
@pytest.mark.parametrize("setting", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}])
def test_who_has_set_malloc_is_left_alone(setting):
    assert pages("keep", **setting)[0] == 0


@pytest.mark.parametrize(("times", "threads", "kept"), [(2.1, 4, True), (1.9, 4, False), (2.1, 1, False), (8.1, 1, True)])
def test_memory_is_kept_where_it_suffices_for_all_who_may_run_here(monkeypatch, times, threads, kept):
    told: list[dict[int, int]] = []
    monkeypatch.setattr(heap, "_mallopt", lambda options: told.append(options) or True)
    monkeypatch.setattr(heap, "peak", lambda: 10**9)
    monkeypatch.setattr(heap, "memory", lambda: int(times * 10**9))
    monkeypatch.setattr(heap.os, "sched_getaffinity", lambda _: range(4), raising=False)
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


def test_the_memory_of_a_container_or_a_job_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(heap, "CONTROL", tmp_path)
    process = psutil.Process()
    free = psutil.virtual_memory().available + process.memory_info().rss
    assert heap.memory() == pytest.approx(free, rel=0.1)
    assert 0.9 < heap.peak() / process.memory_info().rss < 100
    (tmp_path / "memory.max").write_text("max\n")
    assert heap.memory() == pytest.approx(free, rel=0.1)
    (tmp_path / "memory.max").write_text("1048576\n")
    assert heap.memory() == 1048576


def test_so_does_that_of_the_groups_above(monkeypatch, tmp_path):
    told = tmp_path / "self"
    monkeypatch.setattr(heap, "CONTROL", tmp_path)
    monkeypatch.setattr(heap, "GROUPS", told)
    told.write_text("9:cpu,memory:/slurm/job_1/step_0\n0::/user/session\n")
    assert set(heap._limits()) == {
        tmp_path / "memory.max",
        tmp_path / "user/memory.max",
        tmp_path / "user/session/memory.max",
        *(tmp_path / "memory" / group / "memory.limit_in_bytes" for group in ("", "slurm", "slurm/job_1", "slurm/job_1/step_0")),
    }


def test_a_process_that_is_made_shares_no_kept_memory(monkeypatch):
    told: list[object] = []
    monkeypatch.setattr(heap, "_mallopt", lambda options: told.append(options) or True)
    monkeypatch.setattr(heap, "_trim", lambda: told.append("trim"))
    monkeypatch.setattr(heap, "memory", lambda: 2**60)
    heap.before_fork()
    heap.after_fork(0)
    assert told == []
    held = Heap(torch.device("cpu"))
    held.after_step()
    heap.before_fork()
    assert told == [heap._KEEP, "trim"]
    heap.after_fork(0)
    assert (told[2:], Heap.keeping) == ([heap._GIVE_BACK], 0)

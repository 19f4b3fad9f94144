"""Threads of the host that multiply each by itself, and the precision in which they do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def host_threads(count: int) -> Iterator[Executor]:
    """So many threads, each of which multiplies alone and in full float32; what has not begun when this ends never does."""
    before = torch.get_num_threads()
    with _pools().limit(limits=1, user_api="blas"), full_float32():
        pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)  # a thread's own number is also what later threads begin with


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def full_float32() -> Iterator[None]:
    """Training may have allowed TF32, or bfloat16 on a host; ranks are those of full float32 products."""
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)

"""The engine: blocks, memory, the two ways of counting, devices."""

from __future__ import annotations

import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import naive_retrieval as naive
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch.overrides import TorchFunctionMode

from dmkd.evaluation import blocks, even, host_ranks, products, ranks, relations, search


def data(n=301, d=33, classes=20):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, d)).astype(np.float32), rng.integers(0, classes, n)
    x[n // 2 :] = x[: n - n // 2]
    return x, y


def gather(x, y, **options):
    ids = np.arange(len(x))
    blocks = list(search.positive_ranks(x, x, y, y, query_ids=ids, gallery_ids=ids, **options))
    return [np.concatenate([getattr(block, name) for block in blocks]) for name in ("query", "count", "rank")], len(blocks)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_block_size_changes_no_bit(monkeypatch, dtype):
    x, y = data()
    whole, blocks = gather(x.astype(dtype), y)
    assert blocks == 1
    monkeypatch.setattr(products, "BLOCK_MB", 1e-6)
    small, blocks = gather(x.astype(dtype), y)
    assert blocks == -(-len(x) // even.TILE)
    for left, right in zip(whole, small, strict=True):
        np.testing.assert_array_equal(left, right)


def test_equal_vectors_have_equal_similarities_wherever_they_stand():
    rng = np.random.default_rng(1)
    for queries, half, d in ((1, 498, 64), (3, 501, 100), (17, 1003, 128)):
        g = rng.standard_normal((half, d)).astype(np.float32)
        g = np.concatenate([g, g, g[:1]])
        q = rng.standard_normal((queries, d)).astype(np.float32)
        for block in products.ask_blocks(np.concatenate([q, q]), g, torch.device("cpu"), lambda _, found: found.values.copy()):
            np.testing.assert_array_equal(block[:, :half], block[:, half:-1])
            np.testing.assert_array_equal(block[:, 0], block[:, -1])
            np.testing.assert_array_equal(block[:queries], block[queries:])


def test_memory_stays_near_one_block(monkeypatch):
    x, y = data(n=3000, classes=500)
    monkeypatch.setattr(products, "BLOCK_MB", 1.0)
    gather(x[:50], y[:50])
    tracemalloc.start()
    gather(x, y)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert peak < 6, f"{peak:.1f} MB; all similarities at once would take 34 MB"


def test_first_ranks_the_best_positive_alone():
    x, y = data()
    (query, _, rank), _ = gather(x, y)
    (first_query, count, first), _ = gather(x, y, first=True)
    every = ranks.Ranks(query, gather(x, y)[0][1], rank)
    np.testing.assert_array_equal(first_query, query)
    np.testing.assert_array_equal(first, every.first())
    assert set(count) == {1}


@pytest.mark.parametrize("cost", [0, 10**9])
def test_counting_and_sorting_give_the_same_ranks(monkeypatch, cost):
    monkeypatch.setattr(host_ranks, "SORT_COST", cost)
    rng = np.random.default_rng(2)
    for _ in range(50):
        row = rng.integers(-3, 4, rng.integers(1, 40)).astype(np.float32)
        junk = rng.random(len(row)) < 0.2
        positive = (rng.random(len(row)) < 0.4) & ~junk
        if positive.any():
            got = host_ranks.ranks_in_row(np.where(junk, -np.inf, row), np.flatnonzero(positive))
            assert got.tolist() == naive.ranks(row.tolist(), positive.tolist(), junk.tolist())


def test_both_ways_are_taken_by_size():
    row = np.arange(1000, dtype=np.float32)
    few, many = np.array([3, 990]), np.arange(0, 1000, 5)
    assert host_ranks.ranks_in_row(row, few).tolist() == [10, 997]
    assert host_ranks.ranks_in_row(row, many).tolist() == [1000 - p for p in many[::-1]]


def test_positions_of_a_key_ascend():
    rng = np.random.default_rng(3)
    query_keys, gallery_keys = rng.integers(0, 7, 30), rng.integers(0, 6, 3000)
    matches = relations.Matches(query_keys, gallery_keys)
    for start, stop in ((0, 30), (7, 19), (5, 5)):
        rows, columns = matches.pairs(start, stop)
        wanted = [np.flatnonzero(gallery_keys == key) for key in query_keys[start:stop]]
        np.testing.assert_array_equal(rows, np.repeat(np.arange(stop - start), [len(found) for found in wanted]))
        np.testing.assert_array_equal(columns, np.concatenate([*wanted, np.zeros(0, dtype=np.int64)]))


def random_block(rng, height, width, share):
    """Similarities with many ties, junk struck out, and positives; and the ranks by a naive loop."""
    values = rng.integers(-3, 4, (height, width)).astype(np.float32)
    junk = rng.random((height, width)) < 0.2
    positive = (rng.random((height, width)) < share) & ~junk
    wanted = [naive.ranks(*(x[row].tolist() for x in (values, positive, junk))) for row in range(height)]
    return values, np.nonzero(junk), np.nonzero(positive), np.array([rank for row in wanted for rank in row])


@pytest.mark.parametrize("share", [0.02, 0.4])
@pytest.mark.parametrize("few", [0, 100])
def test_a_block_ranks_alike_on_the_host_and_on_a_device(monkeypatch, few, share):
    monkeypatch.setattr(blocks, "FEW", few)
    rng = np.random.default_rng(5)
    for _ in range(20):
        values, junk, positive, wanted = random_block(rng, int(rng.integers(1, 12)), int(rng.integers(1, 60)), share)
        for block in (blocks.HostBlock(values.copy()), blocks.DeviceBlock(torch.from_numpy(values.copy()))):
            block.strike(*junk)
            np.testing.assert_array_equal(block.scores(*positive), values[positive])
            np.testing.assert_array_equal(block.ranks(*positive), wanted)


@contextmanager
def torch_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_threads_share_the_queries_and_give_the_same_ranks(monkeypatch):
    monkeypatch.setattr(products, "BLOCK_MB", 1.0)
    x, y = data(n=1501, classes=300)
    found, used = [], []
    real = search._rank_block

    def rank(*given):
        used.append(threading.get_ident())
        return real(*given)

    monkeypatch.setattr(search, "_rank_block", rank)
    for threads in (1, 3):
        used.clear()
        with torch_threads(threads):
            found.append(gather(x, y)[0])
        assert 1 <= len(set(used)) <= threads
    for left, right in zip(*found, strict=True):
        np.testing.assert_array_equal(left, right)
    similarity = np.where(np.eye(len(x)), -np.inf, x.astype(np.float64) @ x.T.astype(np.float64))
    wanted = [
        naive.ranks(row.tolist(), (y == y[i]).tolist(), [j == i for j in range(len(x))]) for i, row in enumerate(similarity[:20])
    ]
    assert found[0][2][: sum(map(len, wanted))].tolist() == [rank for row in wanted for rank in row]


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if "numpy" in library["filepath"]}


def state():
    """Threads of NumPy's BLAS and of torch's, and how torch may round products."""
    return blas_threads(), torch.get_num_threads(), torch.get_float32_matmul_precision()


def test_the_host_multiplies_by_one_thread_in_full_precision_and_leaves_all_as_it_was():
    x, _ = data()
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch_threads(3), ThreadPoolExecutor(1) as later:
            before, during = state(), []
            answers = products.ask_blocks(x, x, torch.device("cpu"), lambda *_: during.append(state()))
            assert list(answers) == [None] * len(during)
            assert during == [({1}, 1, "highest")] * len(during)
            assert state() == before
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_float32_matmul_precision(allowed)


def test_a_product_is_tried_as_it_will_be_used(monkeypatch):
    during = []
    monkeypatch.setattr(even, "is_even", lambda *_: during.append(state()))
    with torch_threads(3):
        assert even.even_product.__wrapped__(np.dtype(np.float32), 8) is None
    assert during == [({1}, 1, "highest")] * 2


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_has_not_begun_is_dropped_when_a_block_fails_or_nobody_asks_on(monkeypatch, interrupted):
    monkeypatch.setattr(products, "BLOCK_MB", 1e-6)
    x, _ = data(n=1600)
    before, begun = blas_threads(), []

    def ask(start, _):
        begun.append(start)
        time.sleep(0.02)
        if not interrupted:
            raise ValueError("of a block")

    answers = products.ask_blocks(x, x, torch.device("cpu"), ask)
    if interrupted:
        next(answers)
        answers.close()
    else:
        with pytest.raises(ValueError, match="of a block"):
            list(answers)
    assert len(begun) < 50, "of 100 blocks"
    assert blas_threads() == before


@pytest.mark.parametrize(("threads", "each", "together", "rows"), [(1, 2.0, 9.0, 144), (3, 2.0, 9.0, 144), (3, 2.0, 3.0, 48)])
def test_memory_of_all_threads_is_bounded(monkeypatch, threads, each, together, rows):
    monkeypatch.setattr(products, "BLOCK_MB", each)
    monkeypatch.setattr(products, "ALL_BLOCKS_MB", together)
    x, _ = data(n=3000)
    with torch_threads(threads):
        sizes = list(products.ask_blocks(x, x, torch.device("cpu"), lambda _, block: len(block)))
    assert sizes == [rows] * (3000 // rows) + [3000 % rows] * (3000 % rows > 0)


@pytest.mark.parametrize("short", [1, 8, 10**9])
def test_cutting_a_row_down_to_its_last_positive_changes_no_rank(monkeypatch, short):
    monkeypatch.setattr(host_ranks, "SHORT", short)
    rng = np.random.default_rng(7)
    for _ in range(50):
        values, junk, positive, wanted = random_block(rng, 1, int(rng.integers(1, 80)), 0.3)
        values[junk] = -np.inf
        if len(wanted):
            assert host_ranks.ranks_in_row(values[0], positive[1]).tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("few", [1, 8, 10**9])
@pytest.mark.parametrize("cells", [1, 200, 1 << 21])
def test_rows_are_ranked_together_as_one_by_one(monkeypatch, cells, few, dtype):
    monkeypatch.setattr(host_ranks, "CELLS", cells)
    monkeypatch.setattr(host_ranks, "FEW", few)
    rng = np.random.default_rng(8)
    for _ in range(20):
        values, junk, positive, wanted = random_block(rng, int(rng.integers(1, 80)), int(rng.integers(1, 60)), 0.1)
        values[junk] = -np.inf
        values = values.astype(dtype) / 3  # negative and positive zeros and fractions
        values[values == 0] *= rng.choice([-1, 1], size=(values == 0).sum())
        np.testing.assert_array_equal(host_ranks.ranks_in_rows(values, *positive), wanted)


def test_keys_order_every_kind_of_number():
    values = np.array(
        [-np.inf, -3e38, -1.5, -1e-42, -0.0, 0.0, 1e-42, 1e-8, 1.0, np.nextafter(np.float32(1), np.float32(2)), 3e38]
    )
    values = values.astype(np.float32)
    keys = host_ranks.keys(np.zeros(11, dtype=np.int64), values, np.zeros(11, dtype=np.int64), 26)
    assert keys[4] == keys[5]
    assert (np.diff(np.delete(keys, 4)) < 0).all()
    last = (1 << 26) - 1
    edge = host_ranks.keys(np.array([0, 1, 30, 31]), values[[1, 10, 1, 10]], np.array([last, 0, last, 0]), 26)
    assert (np.diff(edge) > 0).all()
    assert edge.min() >= 0


class Spy(TorchFunctionMode):
    """Notes the allowed precision at each matrix product."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if "matmul" in getattr(function, "__name__", "") and "precision" not in function.__name__:
            self.seen.append(torch.get_float32_matmul_precision())
        return function(*args, **(kwargs or {}))


def test_other_devices_multiply_in_full_precision_whatever_training_allowed():
    x, _ = data()
    wanted = x.astype(np.float64) @ x.astype(np.float64).T
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        multiply = products._device_product(x, torch.device("cpu"))
        with torch.autocast("cpu", dtype=torch.bfloat16), Spy() as spy:
            similarities = multiply(x)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert spy.seen == ["highest"]
    assert similarities.dtype == torch.float32
    np.testing.assert_allclose(similarities.numpy(), wanted, atol=1e-4)

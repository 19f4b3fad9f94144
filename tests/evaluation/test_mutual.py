"""Queries that are the gallery: half of the product gives the ranks of the whole, bit by bit."""

from __future__ import annotations

import tracemalloc

import naive_retrieval as naive
import numpy as np
import pytest
import torch

from dmkd.evaluation import even, mutual, relations, search


def data(n=700, d=24, classes=150, spread=0.7, seed=0):
    """Vectors around their classes' centres, every seventh the same as another, some classes of one picture."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = (rng.standard_normal((classes, d))[y] + spread * rng.standard_normal((n, d))).astype(np.float32)
    x[::7] = x[rng.permutation(n)[: len(x[::7])]]
    return x, y


JUNK = {
    "none": lambda n: {},
    "ids": lambda n: {"query_ids": np.arange(n), "gallery_ids": np.arange(n)},
    "groups": lambda n: {
        "query_ids": np.arange(n).astype(str),
        "gallery_ids": np.arange(n).astype(str),
        "query_groups": np.arange(n) % 5,
        "gallery_groups": np.arange(n) % 5,
    },
}


def collected(blocks):
    blocks = list(blocks)
    return [np.concatenate([getattr(block, name) for block in blocks]) for name in ("query", "count", "rank")]


@pytest.fixture
def small(monkeypatch):
    """Squares of one tile, for sets of any size and any number of cells."""
    for name, value in {"EDGE": even.TILE, "SMALL": 0, "KEEPING": 1}.items():
        monkeypatch.setattr(mutual, name, value)
    return monkeypatch


def used(monkeypatch):
    """Notes each set of which the halves are taken."""
    sets, real = [], mutual.Mutual.ranks

    def ranks(self):
        sets.append(len(self.x))
        return real(self)

    monkeypatch.setattr(mutual.Mutual, "ranks", ranks)
    return sets


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("junk", list(JUNK))
@pytest.mark.parametrize(("n", "spread"), [(700, 0.7), (49, 0.5), (47, 2.0), (512, 5.0)])
def test_half_of_the_product_ranks_as_the_whole(small, n, spread, junk, first):
    sets = used(small)
    x, y = data(n, spread=spread, classes=max(4, n // 5))
    options = JUNK[junk](n) | {"first": first}
    half = collected(search.positive_ranks(x, x, y, y, **options))
    assert sets == [n]
    whole = collected(search.positive_ranks(x, x.copy(), y, y, **options))
    assert sets == [n]
    for left, right in zip(half, whole, strict=True):
        np.testing.assert_array_equal(left, right)


def test_it_ranks_as_a_naive_loop(small):
    sets = used(small)
    x, y = data(90, classes=20)
    x = np.round(x)  # products are whole numbers, exact in any order, with many ties
    _, count, rank = collected(search.positive_ranks(x, x, y, y, **JUNK["groups"](90)))
    assert sets == [90]
    similarity = x.astype(np.int64) @ x.astype(np.int64).T
    group = np.arange(90) % 5
    wanted = []
    for i in range(90):
        junk = group == group[i]
        positive = (y == y[i]) & ~junk
        if positive.any():
            wanted.append(naive.ranks(similarity[i].tolist(), positive.tolist(), junk.tolist()))
    assert count.tolist() == [len(ranks) for ranks in wanted]
    assert rank.tolist() == [rank for ranks in wanted for rank in ranks]


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e15])
def test_no_positive_lies_below_what_is_kept(scale):
    """Also where terms cancel: of long vectors that are nearly orthogonal."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((256, 400)).astype(np.float32)
    x[::2, ::2] *= 1000
    x[::3] *= -1
    x *= np.float32(scale)
    y = np.arange(256) % 40
    matches = relations.Matches(y, y)
    low = mutual.Mutual(x, relations.Relations(matches)).low
    rows, columns = matches.pairs(0, 256)
    last = np.full(256, np.inf)
    for order in (slice(None), slice(None, None, -1)):
        product = x[:, order] @ x[:, order].T
        np.minimum.at(last, rows, product[rows, columns])
    assert (low < last).all()
    true = (x.astype(np.float64) @ x.astype(np.float64).T)[rows, columns]
    worst = np.full(256, np.inf)
    np.minimum.at(worst, rows, true)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    assert (worst - low <= 1e-4 * lengths * lengths.max()).all()


def test_the_whole_is_taken_where_a_half_gains_nothing(small, monkeypatch):
    sets = used(small)
    x, y = data()

    def ranked(x, y, gallery=None):
        collected(search.positive_ranks(x, x if gallery is None else gallery, y, y, **JUNK["ids"](len(y))))
        taken = bool(sets)
        sets.clear()
        return taken

    assert ranked(x, y)
    assert ranked(torch.from_numpy(x), torch.from_numpy(y))
    assert not ranked(x, y, gallery=x.copy()), "other vectors"
    assert not ranked(x.astype(np.float64), y), "keys hold float32"
    small.setattr(mutual, "SMALL", 701)
    assert not ranked(x, y), "few pictures"
    small.setattr(mutual, "SMALL", 0)
    small.setattr(mutual, "PAIRS", 2)
    assert not ranked(x, y), "many positives"
    small.setattr(mutual, "PAIRS", 64)
    small.setattr(mutual, "CELLS", 700)
    assert not ranked(x, y), "positives far down"
    small.setattr(mutual, "CELLS", 1 << 25)
    small.setattr(mutual, "KEEPING", 24 * 700)
    assert not ranked(x, y), "cells that cost more to keep than to multiply"
    small.setattr(mutual, "KEEPING", 1)
    small.setattr(mutual, "even_product", lambda *_: None)
    assert not ranked(x, y), "no product that rounds alike from the other side"


def test_what_waits_is_a_part_of_what_is_kept(small):
    rng = np.random.default_rng(4)
    y = rng.integers(0, 1200, 6000)
    x = (rng.standard_normal((1200, 64))[y] + 0.3 * rng.standard_normal((6000, 64))).astype(np.float32)
    small.setattr(mutual, "EDGE", 3 * even.TILE)
    small.setattr(mutual, "KEEPING", 12_288)
    sets = used(small)
    collected(search.positive_ranks(x, x, y, y, **JUNK["ids"](6000)))
    tracemalloc.start()
    collected(search.positive_ranks(x, x, y, y, **JUNK["ids"](6000)))
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert sets == [6000, 6000]
    assert peak < 16, f"{peak:.1f} MB; all similarities at once would take 137 MB"

"""Products in which equal vectors have equal similarities wherever they stand: they are recognised, and one is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmkd.evaluation import even


def in_order(a, b, out):
    """Every cell added up alike, one dimension after the other."""
    out[...] = 0
    for i in range(a.shape[1]):
        out += np.multiply.outer(a[:, i], b[:, i])


def in_order_too(a, b, out):
    in_order(a, b, out)


def other_edge(a, b, out):
    in_order(a, b, out)
    out[-1] = np.multiply(a[-1], b).sum(axis=1)


def other_rows(a, b, out):
    """The second half of every twelve rows is added up from behind, as by a kernel that takes rows in sixes."""
    in_order(a, b, out)
    backwards = np.empty_like(out)
    in_order(a[:, ::-1], b[:, ::-1], backwards)
    second = np.arange(len(a)) % 12 >= 6
    out[second] = backwards[second]


def other_when_small(a, b, out):
    in_order(*((a, b) if out.size > 10_000 else (a[:, ::-1], b[:, ::-1])), out)


def other_from_the_other_side(a, b, out):
    in_order(a * np.float32(1.1), b, out)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Loops in Python: fewer tiles."""
    monkeypatch.setattr(even, "SHAPES", ((1, 1), (1, 2), (2, 1), (3, 3)))
    even.even_product.cache_clear()
    yield
    even.even_product.cache_clear()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_that_are_not_even_are_recognised(dtype):
    assert even.is_even(in_order, np.dtype(dtype), 40)
    for product in (other_edge, other_rows, other_when_small, other_from_the_other_side):
        assert not even.is_even(product, np.dtype(dtype), 40), product.__name__


def test_the_first_even_one_is_taken(monkeypatch):
    taken = []
    for numpy, torchs in ((in_order, in_order_too), (other_rows, in_order), (other_rows, other_edge)):
        monkeypatch.setattr(even, "by_numpy", numpy)
        monkeypatch.setattr(even, "by_torch", torchs)
        even.even_product.cache_clear()
        taken.append(even.even_product(np.dtype(np.float32), 40))
    assert taken == [in_order, in_order, None]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_multiply(dtype):
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((rows, 30)).astype(dtype) for rows in (17, 50))
    wanted = a.astype(np.float64) @ b.T.astype(np.float64)
    for product in (even.by_numpy, even.by_torch):
        out = np.full((20, 50), np.nan, dtype)
        product(a, b, out[:17])
        np.testing.assert_allclose(out[:17], wanted, atol=1e-5 if dtype == np.float32 else 1e-13)
        assert np.isnan(out[17:]).all()


def test_padding_gives_whole_tiles_that_torch_takes():
    rng = np.random.default_rng(2)
    for rows in (1, even.TILE, even.TILE + 1):
        x = rng.standard_normal((rows, 5)).astype(np.float32)
        for given in (x, x[::-1], np.asfortranarray(x)):
            given.flags.writeable = False
            padded = even.padded(given)
            assert len(padded) == even.tiles(rows)
            assert len(padded) % even.TILE == 0
            np.testing.assert_array_equal(torch.from_numpy(padded)[:rows], given)
            assert not padded[rows:].any()


@pytest.mark.parametrize("dim", [3, 64, 128, 512, 1000, 2048])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_this_host_has_one(monkeypatch, dtype, dim):
    monkeypatch.undo()
    assert even.even_product(np.dtype(dtype), dim) in (even.by_numpy, even.by_torch)

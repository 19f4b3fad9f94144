"""Learned whitening against the golden and against what defines it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dmkd.errors import DataError, ShapeError
from dmkd.evaluation import learn_whitening


def test_golden_up_to_the_sign_of_each_row():
    with np.load(Path(__file__).parents[1] / "goldens" / "whitening.npz") as g:
        x = g["X"].T
        mean, p = learn_whitening(x, g["qidxs"], g["pidxs"])
        np.testing.assert_allclose(mean, g["m"][:, 0], atol=1e-12)
        np.testing.assert_allclose(p * np.sign((p * g["P"]).sum(axis=1, keepdims=True)), g["P"], atol=1e-9)
        for rows, name in ((8, "applied"), (4, "applied_dim4")):
            applied = (x - mean) @ p[:rows].T
            applied /= np.linalg.norm(applied, axis=1, keepdims=True) + 1e-6
            np.testing.assert_allclose(applied @ applied.T, g[name].T @ g[name], atol=1e-9)


def test_it_whitens_the_differences_and_sorts_the_scatter():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)) * np.arange(1, 7)
    left, right = np.arange(0, 200, 2), np.arange(1, 200, 2)
    mean, p = learn_whitening(x, left, right)
    difference = (x[left] - x[right]) @ p.T
    np.testing.assert_allclose(difference.T @ difference / 100, np.eye(6), atol=1e-9)
    scatter = ((x - mean) @ p.T).T @ ((x - mean) @ p.T)
    np.testing.assert_allclose(scatter - np.diag(np.diag(scatter)), 0, atol=1e-8)
    assert (np.diff(np.diag(scatter)) < 0).all()
    assert (np.take_along_axis(p, np.abs(p).argmax(axis=1, keepdims=True), axis=1) > 0).all()


def test_few_pairs_are_enough_and_the_kind_is_kept():
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((20, 8)).astype(np.float32))
    mean, p = learn_whitening(x, torch.tensor([0, 1]), torch.tensor([2, 3]))
    assert (mean.dtype, p.dtype, p.shape) == (torch.float32, torch.float32, (8, 8))
    assert p.isfinite().all()
    assert learn_whitening(x.double(), [0, 1, 2], [3, 4, 5])[1].dtype == torch.float64


def test_bad_pairs_raise_one_clear_line():
    x = np.eye(4)
    with pytest.raises(ShapeError, match="wanted two of the same length"):
        learn_whitening(x, [0, 1], [2])
    for pair in (([0], [4]), ([-1], [2])):
        with pytest.raises(DataError, match="outside the 4 rows"):
            learn_whitening(x, *pair)

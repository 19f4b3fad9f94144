"""Density and spectral decay against the golden, loops and SciPy."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.stats import entropy

from dmkd.errors import ConfigError, DataError
from dmkd.evaluation import embedding_density, spectral_decay


def golden():
    with np.load(Path(__file__).parents[1] / "goldens" / "metrics_A.npz") as file:
        return dict(file)


def test_golden():
    g = golden()
    assert embedding_density(g["embeddings"], g["labels"]) == pytest.approx(float(g["dists_intra_over_inter"]), rel=1e-6)
    for drop in (0, 1, 2):
        assert spectral_decay(g["embeddings"], drop=drop) == pytest.approx(float(g[f"rho_exact_full_drop{drop}"]), abs=1e-9)
    assert spectral_decay(torch.from_numpy(g["embeddings"])) == pytest.approx(float(g["rho_official_torch_branch@1"]), abs=1e-6)


def test_density_is_that_of_loops_over_pairs_and_skips_singletons():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)), np.concatenate([rng.integers(0, 4, 28), [7, 9]])
    within = [
        np.mean([cosine(a, b) for a, b in combinations(x[y == label], 2)]) for label in np.unique(y) if (y == label).sum() > 1
    ]
    between = [cosine(a, b) for a, b in combinations([x[y == label].mean(axis=0) for label in np.unique(y)], 2)]
    assert embedding_density(x, y) == pytest.approx(np.mean(within) / np.mean(between), abs=1e-12)


def test_density_of_collapsed_classes_is_finite_and_what_has_none_raises():
    assert embedding_density(np.ones((4, 2)), [0, 0, 1, 1]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(DataError, match="found 1 classes"):
        embedding_density(np.eye(4), [0, 0, 0, 0])
    with pytest.raises(DataError, match="largest 1"):
        embedding_density(np.eye(4), [0, 1, 2, 3])


@pytest.mark.parametrize("drop", [0, 1, 3, 5])
def test_decay_is_the_divergence_from_the_uniform_spectrum(drop):
    x = np.random.default_rng(1).standard_normal((40, 6)) * np.arange(1, 7)
    s = np.sort(np.sqrt(np.linalg.eigvalsh(x.T @ x)))[::-1][drop:]
    assert spectral_decay(x, drop=drop) == pytest.approx(entropy(np.ones(len(s)), s), abs=1e-9)


def test_decay_at_the_ends():
    assert spectral_decay(np.eye(5)) == pytest.approx(0, abs=1e-12)
    assert spectral_decay(np.zeros((4, 3))) == np.inf
    for drop in (-1, 3):
        with pytest.raises(ConfigError, match="wanted 0 to 2"):
            spectral_decay(np.eye(3), drop=drop)

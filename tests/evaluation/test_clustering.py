"""NMI, F1 and k-means against the golden, scikit-learn and loops over pairs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.errors import ConfigError, ShapeError
from dmkd.evaluation import clustering_f1, kmeans, nmi

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), min_size=1, max_size=40)


def test_golden():
    with np.load(Path(__file__).parents[1] / "goldens" / "metrics_A.npz") as g:
        assert nmi(g["labels"], g["cluster_assignment"]) == pytest.approx(float(g["nmi"]), abs=1e-12)
        assert clustering_f1(g["labels"], g["cluster_assignment"]) == pytest.approx(float(g["f1"]), abs=1e-12)


@settings(deadline=None)
@given(PAIRS)
def test_nmi_is_that_of_scikit_learn(pairs):
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, assignment = np.array(pairs).T
    assert nmi(labels, assignment) == pytest.approx(sklearn.normalized_mutual_info_score(labels, assignment), abs=1e-9)


@settings(deadline=None)
@given(PAIRS)
def test_f1_counts_pairs(pairs):
    right = [a[0] == b[0] for a, b in combinations(pairs, 2)]
    found = [a[1] == b[1] for a, b in combinations(pairs, 2)]
    both = sum(r and f for r, f in zip(right, found, strict=True))
    wanted = 2 * both / (sum(right) + sum(found)) if any(right) or any(found) else 1.0
    labels, assignment = np.array(pairs).T
    assert clustering_f1(labels, torch.from_numpy(assignment.copy())) == pytest.approx(wanted, abs=1e-12)


def test_a_perfect_assignment_under_other_names_is_one():
    labels = np.repeat(np.arange(5), 4)
    assert nmi(labels, 100 - labels) == pytest.approx(1.0)
    assert clustering_f1(labels, 100 - labels) == 1.0


def test_different_lengths_raise():
    with pytest.raises(ShapeError, match=r"assignment: found shape \[2\], wanted \[3\]"):
        nmi(np.zeros(3), np.zeros(2))
    with pytest.raises(ShapeError, match="at least one"):
        clustering_f1(np.zeros(0), np.zeros(0))


def blobs(n, centres, spread):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, centres, n)
    return (10 * np.eye(centres, 16)[labels] + spread * rng.standard_normal((n, 16))).astype(np.float32), labels


def test_kmeans_finds_separate_blobs_beside_torch_and_again_the_same():
    x, labels = blobs(400, 2, 0.1)
    weight = torch.randn(64, 64, requires_grad=True)
    (torch.randn(200, 64) @ weight).sum().backward()
    first = kmeans(torch.from_numpy(x), 2)
    assert nmi(labels, first) == pytest.approx(1.0)
    hard = np.random.default_rng(1).standard_normal((500, 16)).astype(np.float32)
    runs = [kmeans(hard, 40) for _ in range(3)]
    assert all(np.array_equal(runs[0], run) for run in runs[1:])
    assert not np.array_equal(runs[0], kmeans(hard, 40, seed=5))
    assert runs[0].shape == (500,)
    assert set(runs[0]) <= set(range(40))


def test_kmeans_uses_every_point():
    """At Lloyd's fixed point each point is nearest to the mean of its own cluster; a subsample's centroids are other means."""
    x = np.random.default_rng(3).standard_normal((3000, 2)).astype(np.float32)
    assignment = kmeans(x, 3, iterations=300)
    means = np.stack([x[assignment == c].astype(np.float64).mean(axis=0) for c in range(3)])
    nearest = np.square(x[:, None] - means).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, assignment)


def test_kmeans_survives_equal_points_and_refuses_impossible_numbers():
    x = np.ones((6, 3), np.float32)
    assert kmeans(x, 3).shape == (6,)
    for clusters in (0, 7):
        with pytest.raises(ConfigError, match=f"clusters: found {clusters}, wanted 1 to the number of rows, 6"):
            kmeans(x, clusters)

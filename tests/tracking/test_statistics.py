"""Against truths that are known because the data are drawn: how often an interval holds the mean, how often a test cries wolf."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from tracking import student
from tracking.statistics import class_bootstrap_interval, holm, paired_class_bootstrap
from tracking.student import t_interval


def clustered(generator: np.random.Generator, classes: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """0/1 outcomes of queries in classes of unequal size, whose own means vary around 0.5."""
    sizes = generator.integers(5, 15, classes)
    means = np.clip(0.5 + spread * generator.standard_normal(classes), 0.02, 0.98)
    labels = np.repeat(np.arange(classes), sizes)
    return (generator.random(labels.size) < means[labels]).astype(float), labels


def test_t_interval_is_scipys():
    values = np.array([0.31, 0.35, 0.28, 0.40])
    expected = scipy.stats.t.interval(0.95, 3, values.mean(), scipy.stats.sem(values))
    assert t_interval(values.tolist()) == pytest.approx(expected)
    assert t_interval(values.tolist(), level=0.5) == pytest.approx(
        scipy.stats.t.interval(0.5, 3, values.mean(), scipy.stats.sem(values))
    )


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 29, 100, 999, 1001, 11_315])
def test_students_distribution_and_quantiles_are_scipys(freedom):
    for t in (-40.0, -2.1, -0.01, 0.0, 0.7, 3.0, 25.0):
        assert student.cdf(t, freedom) == pytest.approx(scipy.stats.t.cdf(t, freedom), abs=1e-13)
    for p in (0.0001, 0.025, 0.3, 0.5, 0.6, 0.975, 0.9999):
        assert student.quantile(p, freedom) == pytest.approx(scipy.stats.t.ppf(p, freedom), rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("values", [[], [0.3], [0.3, math.nan], [0.3, math.inf]])
def test_t_interval_of_nothing_is_nan(values):
    assert all(map(math.isnan, t_interval(values)))


def test_class_interval_covers_where_an_interval_over_queries_does_not():
    generator = np.random.default_rng(0)
    held, naive = 0, 0
    for _ in range(300):
        values, labels = clustered(generator, 25, spread=0.25)
        low, high = class_bootstrap_interval(values, labels, resamples=400)
        held += low <= 0.5 <= high
        naive += abs(values.mean() - 0.5) <= 1.96 * values.std() / math.sqrt(values.size)
    assert 0.92 <= held / 300 <= 0.98
    assert naive / 300 < 0.88


def test_class_interval_reaches_the_mean_of_each_class_drawn_alone():
    """With two classes a resample is class 0 twice, class 1 twice, or both: the ends at a high level are the class means."""
    low, high = class_bootstrap_interval([0, 0, 1, 1], [5, 5, 9, 9], level=0.95)
    assert (low, high) == (0.0, 1.0)


def test_class_interval_is_the_same_each_time_and_whatever_the_order():
    values, labels = clustered(np.random.default_rng(1), 30, 0.2)
    order = np.random.default_rng(2).permutation(values.size)
    assert class_bootstrap_interval(values, labels) == class_bootstrap_interval(values[order], labels[order])
    assert class_bootstrap_interval(values, labels) != class_bootstrap_interval(values, labels, seed=1)


def test_one_class_gives_no_interval():
    assert all(map(math.isnan, class_bootstrap_interval([0, 1, 1], [3, 3, 3])))
    assert all(map(math.isnan, paired_class_bootstrap([0, 1, 1], [1, 1, 1], [3, 3, 3])))


def test_paired_test_keeps_its_level_and_finds_a_real_difference():
    generator = np.random.default_rng(3)
    wolf, found = 0, 0
    for _ in range(300):
        a, labels = clustered(generator, 25, spread=0.25)
        shift = (0.15 * generator.standard_normal(25))[labels]  # classes differ, on average nothing does
        b = (generator.random(a.size) < np.clip(0.5 + shift, 0, 1)).astype(float)
        a = (generator.random(a.size) < np.clip(0.5 - shift, 0, 1)).astype(float)
        wolf += paired_class_bootstrap(a, b, labels, resamples=400)[1] < 0.05
        better = np.maximum(b, generator.random(a.size) < 0.3)
        found += paired_class_bootstrap(better, b, labels, resamples=400)[1] < 0.05
    assert 0.02 <= wolf / 300 <= 0.09
    assert found / 300 > 0.95


def test_paired_test_agrees_with_its_interval():
    generator = np.random.default_rng(4)
    for _ in range(20):
        a, labels = clustered(generator, 20, 0.2)
        b = clustered(generator, 20, 0.2)[0]
        b = np.resize(b, a.size)
        low, high = class_bootstrap_interval(a - b, labels)
        difference, p = paired_class_bootstrap(a, b, labels)
        assert difference == pytest.approx((a - b).mean())
        if abs(p - 0.05) > 0.005:
            assert (p < 0.05) == (not low <= 0 <= high)


def test_paired_test_of_equal_systems_is_one_and_swapping_changes_nothing_but_the_sign():
    a, labels = clustered(np.random.default_rng(5), 20, 0.2)
    assert paired_class_bootstrap(a, a, labels) == (0.0, pytest.approx(1.0))
    forward, backward = paired_class_bootstrap(a, 1 - a, labels), paired_class_bootstrap(1 - a, a, labels)
    assert forward[0] == -backward[0]
    assert forward[1] == backward[1]


def test_holm_by_hand():
    # sorted 0.01 0.03 0.04 times 3 2 1 gives 0.03 0.06 0.04, made monotone: 0.03 0.06 0.06
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm([0.9, math.nan, 0.5]), [1.0, math.nan, 1.0])
    assert holm([]).shape == (0,)


def test_holm_keeps_the_familywise_level():
    generator = np.random.default_rng(6)
    p = generator.random((2000, 5))
    assert np.mean([(holm(row) < 0.05).any() for row in p]) == pytest.approx(0.05, abs=0.015)

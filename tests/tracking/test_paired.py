"""Two rows on the same queries: against plain counting, and its intervals against simulated data of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tracking.errors import TrackingError
from tracking.paired import paired, seeds_interval


def outcome(hits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    zeros = np.zeros(hits.size)
    return {"query": np.arange(hits.size), "label": labels, "first_hit": np.where(hits, 1, 9), "ap": zeros, "ap_at_r": zeros}


def test_queries_and_classes_are_counted():
    labels = np.array([0, 0, 1, 1, 2])
    a = [outcome(np.array(hits, bool), labels) for hits in ([1, 1, 0, 1, 0], [1, 0, 0, 1, 0], [1, 1, 0, 0, 0])]
    b = [outcome(np.array([0, 1, 1, 1, 0], bool), labels)]
    found = paired(a, b, "test/recall_at_1")
    assert (found.both, found.only_a, found.only_b, found.neither) == ((1, 3), (0,), (2,), (4,))
    assert found.a == pytest.approx((1 + 2 / 3 + 0 + 2 / 3 + 0) / 5)
    assert found.difference == pytest.approx(found.a - 3 / 5)
    rows = {row["label"]: row for row in found.classes.to_dicts()}
    assert rows[0]["difference"] == pytest.approx((1 + 2 / 3) / 2 - 0.5)
    assert found.classes["difference"].abs().is_sorted(descending=True)


def test_missing_outcomes_and_foreign_metrics_are_told():
    one = [outcome(np.ones(4, bool), np.arange(4))]
    with pytest.raises(TrackingError, match="B: none of its runs stored"):
        paired(one, [], "test/recall_at_1")
    with pytest.raises(TrackingError, match="is no mean over queries"):
        paired(one, one, "test/nmi")
    other = [one[0] | {"query": np.arange(10, 14)}]
    with pytest.raises(TrackingError, match="no test query in common"):
        paired(one, other, "test/recall_at_1")


def test_the_interval_of_the_difference_covers_the_truth_at_its_rate():
    """Hits that stand or fall by class; the true difference is 0.1: 95 % intervals hold it in 95 % of 400 drawn test sets."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        ease = rng.beta(2, 2, size=60)
        labels = np.repeat(np.arange(60), 5)
        a, b = (rng.random(300) < np.clip(ease * 0.8 + shift, 0, 1)[labels] for shift in (0.15, 0.05))
        found = paired([outcome(a, labels)], [outcome(b, labels)], "test/recall_at_1")
        held += found.low <= 0.1 <= found.high
    assert stats.binomtest(held, 400, 0.95).pvalue > 0.001


def test_over_seeds_it_is_welchs_interval():
    a, b = [0.5, 0.6, 0.7], [0.1, 0.2, 0.15, 0.3]
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert seeds_interval(a, b) == pytest.approx((expected.low, expected.high))
    assert np.isnan(seeds_interval([0.5], b)).all()
    assert seeds_interval([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25)

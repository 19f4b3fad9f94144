"""The width of recall's interval that `dmkd prepare` announces, against simulation and a plain count of queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmkd.data import Data
from dmkd.data.datasets import read_listing
from dmkd.data.pictures import GALLERY, QUERY, Listing, make_listing
from dmkd.data.prepare import check
from dmkd.data.widths import half_width, queries_of, width_of
from tests.pictures import make_folder, make_inshop


@pytest.mark.parametrize(
    ("counts", "recall", "correlation"),
    [([20] * 60, 0.7, 0.2), ([2, 5, 60] * 20, 0.5, 0.3), ([1] * 400, 0.8, 0.5), ([30] * 40, 0.6, 0.0)],
)
def test_the_half_width_is_that_of_simulated_classes(counts: list[int], recall: float, correlation: float) -> None:
    """Each class has its own probability of a hit, Beta-distributed; intra-class correlation is 1 / (a + b + 1)."""
    rng = np.random.default_rng(0)
    queries = np.array(counts)
    if correlation:
        strength = 1 / correlation - 1
        chances = rng.beta(recall * strength, (1 - recall) * strength, size=(4_000, len(queries)))
    else:
        chances = np.full((4_000, len(queries)), recall)
    means = rng.binomial(queries, chances).sum(axis=1) / queries.sum()
    assert half_width(queries, recall, correlation) == pytest.approx(1.96 * means.std(), rel=0.05)


def counted(listing: Listing, label: int) -> int:
    """By a loop: pictures that ask and have another picture of their class to find."""
    roles = [0] * len(listing.labels) if listing.role is None else listing.role.tolist()
    own = [place for place, other in enumerate(listing.labels.tolist()) if other == label]
    asking = [place for place in own if roles[place] != GALLERY]
    return sum(any(other != place and roles[other] != QUERY for other in own) for place in asking)


def test_queries_without_a_positive_do_not_count(tmp_path: Path) -> None:
    rows = [(f"{number}.png", label) for number, label in enumerate("aaabccddee")]
    role = [0, 0, QUERY, 0, QUERY, GALLERY, QUERY, QUERY, QUERY, 0]
    for listing in (make_listing("x", tmp_path, rows), make_listing("x", tmp_path, rows, role=role)):
        assert queries_of(listing, list(range(5))).tolist() == [counted(listing, label) for label in range(5)]
    inshop = read_listing(Data(name="inshop", root=str(make_inshop(tmp_path, size=24))))
    assert queries_of(inshop, [4, 5]).tolist() == [2, 2]
    assert width_of("test", np.zeros(3, dtype=np.int64)) is None


def test_prepare_says_it_for_test_and_validation(tmp_path: Path) -> None:
    report = check("folder", str(make_folder(tmp_path, classes=20, size=24, per_class=3)), decode=False)
    assert [(width.part, width.classes, width.queries) for width in report.widths] == [("test", 10, 30), ("its validation", 2, 6)]
    half = 1.96 * np.sqrt(0.7 * 0.3 * (30 + 0.2 * 10 * 6)) / 30
    assert report.widths[0].half == pytest.approx(half)
    assert f"+-{100 * half:.1f} points" in report.lines()[2]

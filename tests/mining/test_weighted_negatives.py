"""Negatives of RAML's teacher: out of a pool, without replacement, by distance."""

from __future__ import annotations

import sys
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from dmkd.errors import DataError
from dmkd.mining import distance_weighted_probabilities, weighted_negatives


def unit(rows: int, dim: int, seed: int) -> Tensor:
    return nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_pairs_are_drawn_as_by_one_weighted_draw_after_another() -> None:
    """P(i then j) = p_i p_j / (1 - p_i), counted over 20000 draws: every cell within five standard deviations."""
    anchor, pool = unit(1, 4, 0), unit(5, 4, 1)
    classes, many = torch.tensor([1, 1, 2, 3, 0]), 20000
    weights = distance_weighted_probabilities(anchor, torch.tensor([0]), ref_x=pool, ref_labels=classes)[0].double()
    drawn = weighted_negatives(
        anchor.expand(many, 4),
        pool,
        torch.zeros(many, dtype=torch.int64),
        classes,
        count=2,
        floor=0.0,
        generator=torch.Generator().manual_seed(2),
    )
    assert (drawn != 4).all(), "the class-mate has no weight without a floor"
    for first, second in permutations(range(4), 2):
        expected = float(weights[first] * weights[second] / (1 - weights[first]))
        found = float(((drawn[:, 0] == first) & (drawn[:, 1] == second)).double().mean())
        assert abs(found - expected) < 5 * (expected * (1 - expected) / many) ** 0.5 + 1e-4


def test_no_image_is_drawn_twice_and_the_floor_gives_every_labelled_image_its_share() -> None:
    pool, classes = unit(6, 8, 3), torch.tensor([0, 0, 1, 1, -1, 2])
    drawn = weighted_negatives(pool[:2].repeat(400, 1), pool, classes[:2].repeat(400), classes, count=4, floor=0.1)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3, 5}, "class-mates and the anchor itself too, as released"


@pytest.mark.parametrize("entries", [1 << 22, 70])
def test_every_chunk_of_anchors_draws_for_its_own_classes(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, classes = unit(30, 8, 4), torch.arange(30) % 6
    monkeypatch.setattr(sys.modules["dmkd.mining.distance_weighted"], "_ENTRIES_AT_ONCE", entries)
    draws = [
        weighted_negatives(pool, pool, classes, classes, floor=0.0, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    ]
    assert draws[0].shape == (30, 4)
    assert torch.equal(*draws)
    assert (classes[draws[0]] != classes[:, None]).all()
    assert weighted_negatives(pool[:0], pool, classes[:0], classes).shape == (0, 4)


@pytest.mark.parametrize(("classes", "count", "floor"), [([0, 0, 0], 1, 1e-6), ([0, 1, 2], 3, 0.0), ([0, 1, -1], 3, 1e-6)])
def test_too_small_a_pool_is_named(classes: list[int], count: int, floor: float) -> None:
    pool = unit(3, 4, 6)
    with pytest.raises(DataError, match="enlarge the pool"):
        weighted_negatives(pool[:1], pool, torch.tensor([0]), torch.tensor(classes), count=count, floor=floor)


def test_it_looks_and_leaves_no_graph() -> None:
    x, classes = unit(8, 4, 7).requires_grad_(), torch.arange(8) % 4
    assert weighted_negatives(x, x, classes, classes, count=2).dtype == torch.int64
    assert x.grad is None

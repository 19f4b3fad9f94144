"""Pool mining against the plain reading of the rule: walk down the ranking, skip classes already taken."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmkd.errors import DataError, ShapeError
from dmkd.mining import hard_negatives

module = importlib.import_module("dmkd.mining.hard_negatives")


def walk(anchor: Tensor, own: int, pool: Tensor, classes: list[int], count: int) -> list[int]:
    taken: list[int] = []
    seen = {own, -1}
    for position in torch.argsort(pool @ anchor, descending=True, stable=True).tolist():
        if classes[position] not in seen and len(taken) < count:
            taken.append(position)
            seen.add(classes[position])
    return taken


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([1, 30, 1 << 22]))
def test_it_walks_down_the_ranking(seed: int, count: int, entries: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, pool = (
        torch.randn(7, 4, generator=generator, dtype=torch.float64),
        torch.randn(30, 4, generator=generator, dtype=torch.float64),
    )
    own = torch.randint(0, 9, (7,), generator=generator) * 100
    classes = torch.cat((torch.arange(6), torch.randint(-1, 9, (24,), generator=generator))) * 100
    classes[classes < 0] = -1
    kept = module._ENTRIES_AT_ONCE
    module._ENTRIES_AT_ONCE = entries
    try:
        found = hard_negatives(anchors, pool, own, classes, count=count)
    finally:
        module._ENTRIES_AT_ONCE = kept
    wanted = [walk(anchors[q], int(own[q]), pool, classes.tolist(), count) for q in range(7)]
    assert found.tolist() == wanted


def test_random_ranking_keeps_the_rule_of_classes() -> None:
    torch.manual_seed(0)
    classes = torch.arange(6).repeat_interleave(3)
    own = torch.arange(6).repeat(50)
    found = hard_negatives(torch.zeros(300, 2), torch.zeros(18, 2), own, classes, count=3, random=True)
    drawn = classes[found]
    assert (drawn != own[:, None]).all()
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    assert len(set(found.flatten().tolist())) == 18


def test_too_few_classes_are_named() -> None:
    anchors, pool = torch.randn(2, 3), torch.randn(6, 3)
    with pytest.raises(DataError, match=r"5 negatives .* pool has 2 classes"):
        hard_negatives(anchors, pool, torch.tensor([0, 1]), torch.tensor([0, 0, 1, 1, 2, -1]))
    with pytest.raises(ShapeError, match="dimension 3, ref_x 2"):
        hard_negatives(anchors, pool[:, :2], torch.tensor([0, 1]), torch.zeros(6, dtype=torch.int64))


def test_no_anchor_gives_no_rows() -> None:
    found = hard_negatives(torch.zeros(0, 3), torch.zeros(4, 3), torch.zeros(0, dtype=torch.int64), torch.arange(4), count=2)
    assert found.shape == (0, 2)


def test_half_precision_embeddings_are_ranked_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors, pool = torch.randn(4, 8, generator=generator).half(), torch.randn(20, 8, generator=generator).half()
    own, classes = torch.zeros(4, dtype=torch.int64), torch.arange(20)
    assert torch.equal(hard_negatives(anchors, pool, own, classes), hard_negatives(anchors.float(), pool.float(), own, classes))

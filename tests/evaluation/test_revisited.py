"""Revisited Oxford and Paris against plain Python."""

from __future__ import annotations

import naive_retrieval as naive
import numpy as np
import pytest
import torch

from dmkd.errors import ConfigError, DataError, ShapeError
from dmkd.evaluation import revisited_map

LISTS = {"easy": ("E", "JH"), "medium": ("EH", "J"), "hard": ("H", "JE")}


def case(seed, queries=9, gallery=40):
    """Letters: easy, hard, junk, negative; query 0 has no easy one and query 1 no hard one. Similarities tie."""
    rng = np.random.default_rng(seed)
    letters = rng.choice(list("EHJN"), (queries, gallery), p=[0.1, 0.1, 0.1, 0.7])
    letters[0][letters[0] == "E"] = "N"
    letters[1][letters[1] == "H"] = "J"
    return rng.integers(-9, 9, (queries, gallery)) / 8, letters


@pytest.mark.parametrize("mode", ["easy", "medium", "hard"])
@pytest.mark.parametrize("seed", range(5))
def test_each_protocol_is_that_of_plain_python(mode, seed):
    similarity, letters = case(seed)
    got = revisited_map(similarity, *(letters == letter for letter in "EHJ"), mode=mode, k=(1, 3, 10))
    positives, left_out = LISTS[mode]
    places = [
        naive.ranks(row, [letter in positives for letter in line], [letter in left_out for letter in line])
        for row, line in zip(similarity.tolist(), letters.tolist(), strict=True)
    ]
    wanted = [naive.trapezoidal_ap(p) if p else np.nan for p in places]
    np.testing.assert_allclose(got["ap"], wanted, atol=1e-12)
    assert got["map"] == pytest.approx(np.nanmean(wanted), abs=1e-12)
    for k in (1, 3, 10):
        assert got["mp"][k] == pytest.approx(np.mean([naive.precision_at(p, k) for p in places if p]), abs=1e-12)


def test_a_query_without_positives_is_skipped_and_tensors_come_back():
    similarity, letters = case(0)
    tensors = [torch.from_numpy(a) for a in (similarity, *(letters == letter for letter in "EHJ"))]
    got = revisited_map(*tensors, mode="easy")
    assert isinstance(got["ap"], torch.Tensor)
    assert got["ap"].isnan().tolist() == [True] + [False] * 8
    assert list(got["mp"]) == [1, 5, 10]


def test_medium_is_the_default():
    similarity, letters = case(1)
    masks = [letters == letter for letter in "EHJ"]
    assert revisited_map(similarity, *masks)["map"] == revisited_map(similarity, *masks, mode="medium")["map"]


def test_bad_input_raises_one_clear_line():
    similarity, letters = case(2)
    masks = [letters == letter for letter in "EHJ"]
    with pytest.raises(ConfigError, match="did you mean 'medium'"):
        revisited_map(similarity, *masks, mode="medum")
    with pytest.raises(ShapeError, match="hard: found shape"):
        revisited_map(similarity, masks[0], masks[1][:, 1:], masks[2])
    with pytest.raises(DataError, match="NaN"):
        revisited_map(np.where(masks[0], np.nan, similarity), *masks)
    with pytest.raises(DataError, match="no query has a positive under the protocol 'hard'"):
        revisited_map(similarity, masks[0], masks[1] & False, masks[2], mode="hard")
    with pytest.raises(ConfigError, match="at least 1"):
        revisited_map(similarity, *masks, k=(0,))

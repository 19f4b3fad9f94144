"""Goldens of the samplers: probabilities and candidate sets of the released code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dmkd.mining import all_triplets, distance_weighted_probabilities, semihard_candidates, softhard_candidates
from dmkd.mining.pairs import class_masks, distances

GOLDENS = Path(__file__).parents[1] / "goldens"


def names(prefix: str) -> list[str]:
    return sorted(path.stem for path in GOLDENS.glob(f"{prefix}*.npz"))


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.mark.parametrize("name", names("sampler_distance_probs"))
def test_distance_weighted(name: str) -> None:
    golden = load(name)
    torch.testing.assert_close(distances(golden["embeddings"]), golden["dist"], rtol=0, atol=1e-7)
    found = distance_weighted_probabilities(golden["embeddings"], golden["labels"])
    torch.testing.assert_close(found, golden["neg_probs"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", names("sampler_rho"))
def test_rho(name: str) -> None:
    golden = load(name)
    found = distance_weighted_probabilities(golden["embeddings"], golden["labels"])
    torch.testing.assert_close(found, golden["neg_probs_no_switch"], rtol=1e-9, atol=1e-9)
    mates = class_masks(golden["labels"])[0].double()
    marginal = 0.8 * found + 0.2 * mates / mates.sum(dim=1, keepdim=True)
    torch.testing.assert_close(marginal, golden["neg_probs_marginal_cp0p2"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", names("sampler_semihard"))
def test_semihard(name: str) -> None:
    golden = load(name)
    found = semihard_candidates(golden["embeddings"], golden["labels"], margin=0.2)
    assert torch.equal(found, golden["neg_candidates"] & golden["pair_seen"][:, :, None])
    assert found.any()


@pytest.mark.parametrize("name", names("sampler_softhard"))
def test_softhard(name: str) -> None:
    golden = load(name)
    positives, negatives = softhard_candidates(golden["embeddings"], golden["labels"])
    assert torch.equal(positives, golden["pos_candidates"])
    assert torch.equal(negatives, golden["neg_candidates"])


@pytest.mark.parametrize("name", names("sampler_random"))
def test_random_population(name: str) -> None:
    golden = load(name)
    found = all_triplets(golden["labels"])
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, golden["all_triplets"].tolist()))


def test_every_sampler_has_a_golden() -> None:
    assert len(names("sampler_")) >= 5

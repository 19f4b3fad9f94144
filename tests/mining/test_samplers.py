"""Samplers: candidates and probabilities against loops, draws against their probabilities, and where released code breaks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmkd.errors import ConfigError, ShapeError
from dmkd.mining import (
    MINERS,
    all_triplets,
    distance_weighted_probabilities,
    find_miner,
    semihard_candidates,
    softhard_candidates,
)
from dmkd.mining.pairs import class_masks, draw

SEEDS = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def batch(seed: int, withheld: bool = True) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    size, dim = int(generator.integers(1, 12)), int(generator.integers(1, 9))
    x = generator.normal(size=(size, dim))
    labels = generator.integers(-1 if withheld else 0, 4, size=size)
    return torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)), torch.from_numpy(labels)


def pairs(labels: Tensor, i: int) -> tuple[list[int], list[int]]:
    """(positives, negatives) of row i, by the plainest reading."""
    y = labels.tolist()
    known = [j for j in range(len(y)) if y[j] >= 0 and y[i] >= 0 and j != i]
    return [j for j in known if y[j] == y[i]], [j for j in known if y[j] != y[i]]


@quick
@given(SEEDS, st.sampled_from([None, 1.4, 0.55]), st.sampled_from([0.0, 1e-6, 0.1]))
def test_distance_weighted_probabilities(seed: int, upper_cutoff: float | None, floor: float) -> None:
    x, labels = batch(seed)
    size, dim = x.shape
    found = distance_weighted_probabilities(x, labels, upper_cutoff=upper_cutoff, floor=floor)
    assert found.dtype == torch.float64
    for i in range(size):
        _, negatives = pairs(labels, i)
        weights = [0.0] * size
        logs = {}
        for n in negatives:
            d = max(0.5, min(float((x[i] - x[n]).norm()), 2.0))
            if upper_cutoff is None or d < upper_cutoff:
                pole = max(1 - d * d / 4, np.finfo(float).eps)
                logs[n] = (2 - dim) * math.log(d) - (dim - 3) / 2 * math.log(pole)
        largest = max([*logs.values(), 0.0 if len(negatives) < size else -math.inf], default=0.0)
        for n in negatives:
            weights[n] = (math.exp(logs[n] - largest) if n in logs else 0.0) if logs else 1.0
        if negatives:
            weights = [w + floor * (labels[j].item() >= 0) for j, w in enumerate(weights)]
        total = sum(weights)
        wanted = torch.tensor([w / total if total else 0.0 for w in weights], dtype=torch.float64)
        torch.testing.assert_close(found[i], wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 8, 512, 2048])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opposite_negatives_keep_the_probabilities_finite(dim: int, dtype: torch.dtype) -> None:
    """At D = 2 the weight has a pole, where the released draw raises; the negative at the pole takes the mass (for D > 3)."""
    x = torch.zeros(4, dim, dtype=dtype)
    x[0, 0], x[1, 0], x[2, 0], x[3, 1] = 1, 1, -1, 1
    found = distance_weighted_probabilities(x, torch.tensor([0, 0, 1, 2]))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(4, dtype=dtype))
    if dim > 3:
        assert found[0, 2] > 0.99


def test_distances_beyond_the_sphere_count_as_its_diameter() -> None:
    """Rows that are not of unit length: the weight is known up to D = 2 alone, so all that lie farther weigh the same."""
    x = torch.tensor([[0.0] * 5, [0.9, 0, 0, 0, 0], [2, 0, 0, 0, 0], [0, 3, 0, 0, 0], [0, 0, 40, 0, 0]], dtype=torch.float64)
    found = distance_weighted_probabilities(x, torch.arange(5))
    pole = np.finfo(float).eps
    near, far = (-3 * math.log(d) - math.log(rest) for d, rest in ((0.9, 1 - 0.9**2 / 4), (2.0, pole)))
    weights = np.exp(np.array([-np.inf, near, far, far, far]) - far)
    np.testing.assert_allclose(found[0], weights / weights.sum(), rtol=1e-9)


def test_upper_cutoff_leaves_far_negatives_out_and_falls_back_to_all() -> None:
    angles = torch.tensor([0.0, 0.1, 1.0, 3.0], dtype=torch.float64)
    x = torch.stack((angles.cos(), angles.sin()), dim=1)
    labels = torch.tensor([0, 0, 1, 2])
    free = distance_weighted_probabilities(x, labels)
    cut = distance_weighted_probabilities(x, labels, upper_cutoff=1.4)
    assert free[0, 3] > 0
    assert cut[0].tolist() == [0, 0, 1, 0]
    assert distance_weighted_probabilities(x, labels, upper_cutoff=0.3)[0].tolist() == [0, 0, 0.5, 0.5]


def test_the_higher_the_dimension_the_more_the_far_negative_takes() -> None:
    """Two negatives on both sides of sqrt 2 (1.41 and 1.5) at 2048 dimensions: the farther one takes essentially all."""
    x = torch.zeros(3, 2048, dtype=torch.float64)
    for row, distance in ((1, 1.41), (2, 1.5)):
        cosine = 1 - distance**2 / 2
        x[row, 0], x[row, row] = cosine, math.sqrt(1 - cosine**2)
    x[0, 0] = 1
    assert distance_weighted_probabilities(x, torch.tensor([0, 1, 2]))[0, 2] > 0.99


@quick
@given(SEEDS)
def test_candidates(seed: int) -> None:
    x, labels = batch(seed)
    size = len(x)
    d = [[float((x[i] - x[j]).norm()) for j in range(size)] for i in range(size)]
    semihard = torch.zeros(size, size, size, dtype=torch.bool)
    soft_positive, soft_negative = torch.zeros(2, size, size, dtype=torch.bool)
    for a in range(size):
        positives, negatives = pairs(labels, a)
        for p in positives:
            near = [n for n in negatives if d[a][p] < d[a][n] < d[a][p] + 0.2]
            semihard[a, p, near or negatives] = True
        if positives:
            far = [p for p in positives if negatives and d[a][p] > min(d[a][n] for n in negatives)]
            soft_positive[a, far or positives] = True
            close = [n for n in negatives if d[a][n] < max(d[a][p] for p in positives)]
            soft_negative[a, close or negatives] = True
    assert torch.equal(semihard_candidates(x, labels), semihard)
    found = softhard_candidates(x, labels)
    assert torch.equal(found[0], soft_positive)
    assert torch.equal(found[1], soft_negative)


@quick
@given(SEEDS)
def test_all_triplets(seed: int) -> None:
    _, labels = batch(seed)
    wanted = [[a, p, n] for a in range(len(labels)) for p in pairs(labels, a)[0] for n in pairs(labels, a)[1]]
    assert all_triplets(labels).tolist() == wanted


@quick
@given(SEEDS, st.sampled_from(sorted(MINERS)), st.booleans())
def test_every_miner_draws_valid_triplets(seed: int, name: str, reference: bool) -> None:
    x, labels = batch(seed)
    ref_x, ref_labels = x.flip(0)[: len(x) // 2 + 1], labels.flip(0)[: len(x) // 2 + 1]
    torch.manual_seed(seed % 1000)
    triplets = MINERS[name](x, labels, ref_x, ref_labels) if reference else MINERS[name](x, labels)
    assert triplets.dtype == torch.int64
    assert triplets.shape[1:] == (3,)
    other = ref_labels if reference else labels
    for a, p, n in triplets.tolist():
        assert labels[a] >= 0
        assert other[p] == labels[a]
        assert other[n] >= 0
        pushes_mates = name == "rho" and other[n] == labels[a]
        assert pushes_mates or other[n] != labels[a]
        if not reference:
            lonely = not pairs(labels, a)[0]
            itself = pushes_mates or name == "batch_hard" or (name == "distance_weighted" and lonely)
            assert (p == a) <= itself
            assert n != a
    if name not in ("all", "random"):
        assert len({a for a, _, _ in triplets.tolist()}) == len(triplets)


def test_every_index_is_an_anchor_of_the_distance_weighted_sampler() -> None:
    x, labels = batch(3, withheld=False)
    labels = torch.arange(len(x)) // 2
    triplets = MINERS["distance_weighted"](x, labels)
    assert triplets[:, 0].tolist() == list(range(len(x)))


def frequencies(name: str, x: Tensor, labels: Tensor, anchor: int, draws: int = 1500, **options: float) -> Tensor:
    """How often `anchor` draws each (positive, negative)."""
    miner = find_miner(name, **options)
    torch.manual_seed(0)
    found = torch.cat([miner(x, labels) for _ in range(draws)])
    counts = torch.zeros(len(x), len(x), dtype=torch.float64)
    for (_, p, n), count in Counter(map(tuple, found[found[:, 0] == anchor].tolist())).items():
        counts[p, n] = count
    return counts / draws


def uniform(mask: Tensor) -> Tensor:
    return mask.double() / mask.sum()


@pytest.fixture
def eight() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.nn.functional.normalize(torch.randn(8, 3, generator=generator, dtype=torch.float64))
    return x, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])


def near(found: Tensor, wanted: Tensor) -> None:
    """Five standard deviations of a frequency of 1500 draws are at most 0.065."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.065)


def test_draws_follow_their_probabilities(eight: tuple[Tensor, Tensor]) -> None:
    x, labels = eight
    positive, _ = class_masks(labels)
    weights = distance_weighted_probabilities(x, labels)[0]
    near(frequencies("distance_weighted", x, labels, 0), uniform(positive[0])[:, None] * weights)
    soft_positive, soft_negative = softhard_candidates(x, labels)
    near(frequencies("softhard", x, labels, 0), uniform(soft_positive[0])[:, None] * uniform(soft_negative[0]))
    candidates = semihard_candidates(x, labels, margin=0.4)[0]
    wanted = torch.stack([uniform(row) if row.any() else row.double() for row in candidates])
    near(frequencies("semihard", x, labels, 0, margin=0.4), uniform(positive[0])[:, None] * wanted)


def test_rho_switches_with_its_probability(eight: tuple[Tensor, Tensor]) -> None:
    x, labels = eight
    positive, _ = class_masks(labels)
    mates = uniform(positive[0])
    wanted = 0.7 * mates[:, None] * distance_weighted_probabilities(x, labels)[0]
    wanted[0] += 0.3 * mates
    near(frequencies("rho", x, labels, 0, switch=0.3), wanted)
    assert (MINERS["rho"](x, labels)[:, 0] == torch.arange(8)).all()


def test_rho_with_a_reference_set_takes_the_nearest_class_mate_for_the_anchor_itself(eight: tuple[Tensor, Tensor]) -> None:
    x, labels = eight
    triplets = find_miner("rho", switch=1.0)(x, labels, x, labels)
    assert torch.equal(triplets[:, 1], torch.arange(8))
    assert (triplets[:, 2] != triplets[:, 0]).all()
    assert torch.equal(labels[triplets[:, 2]], labels)


def test_rho_leaves_lonely_anchors_out() -> None:
    x = torch.eye(3)
    assert MINERS["rho"](x, torch.tensor([0, 0, 1]))[:, 0].tolist() == [0, 1]


def test_random_draws_without_replacement(eight: tuple[Tensor, Tensor]) -> None:
    x, labels = eight
    torch.manual_seed(0)
    drawn = MINERS["random"](x, labels).tolist()
    assert len({tuple(triplet) for triplet in drawn}) == len(x)
    assert all(triplet in all_triplets(labels).tolist() for triplet in drawn)
    few = torch.tensor([0, 0, 1])
    assert sorted(MINERS["random"](x[:3], few).tolist()) == [[0, 1, 2], [1, 0, 2]]


def test_batch_hard_takes_the_farthest_and_the_nearest() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [3.5], [9.0]])
    labels = torch.tensor([0, 0, 0, 1, 2])
    assert MINERS["batch_hard"](x, labels).tolist() == [[0, 2, 3], [1, 2, 3], [2, 0, 3], [3, 3, 2], [4, 4, 3]]


def test_draws_repeat_with_the_global_generator(eight: tuple[Tensor, Tensor]) -> None:
    for name, miner in MINERS.items():
        torch.manual_seed(1)
        first = miner(*eight)
        torch.manual_seed(1)
        assert torch.equal(miner(*eight), first), name


def test_draw_never_takes_a_zero_weight() -> None:
    weights = torch.tensor([[0.0, 1e-30, 0.0], [0.0, 0.0, 5.0]]).repeat(2000, 1)
    torch.manual_seed(0)
    assert torch.equal(draw(weights), torch.tensor([1, 2]).repeat(2000))


def test_samplers_look_and_leave_no_graph(eight: tuple[Tensor, Tensor]) -> None:
    x = eight[0].clone().requires_grad_()
    assert not distance_weighted_probabilities(x, eight[1]).requires_grad


def test_mistakes_are_named(eight: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'distance_weighted'"):
        find_miner("distance")
    for miner in MINERS.values():
        with pytest.raises(ShapeError, match=r"labels \[7\]"):
            miner(eight[0], eight[1][:7])

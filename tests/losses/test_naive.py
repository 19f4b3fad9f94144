"""Each loss against the plainest loops one can write, on random batches of every shape; and against a peer library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dmkd.losses import (
    batch_hard_triplet_loss,
    contrastive_loss,
    margin_loss,
    multi_similarity_loss,
    triplet_loss,
    tuple_contrastive_loss,
    tuple_multi_similarity_loss,
    tuple_triplet_loss,
)

Array = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def unit(generator: np.random.Generator, *shape: int) -> Array:
    x = generator.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def torch_of(*arrays: NDArray[np.generic]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.asarray(array)) for array in arrays)


def close(found: Tensor, wanted: float) -> None:
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def batch(seed: int) -> tuple[np.random.Generator, Array, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    size, dim = int(generator.integers(1, 12)), int(generator.integers(1, 7))
    return generator, unit(generator, size, dim), generator.integers(-1, 4, size=size)


@quick
@given(SEEDS)
def test_losses_of_triplets(seed: int) -> None:
    generator, x, _ = batch(seed)
    size = len(x)
    triplets = generator.integers(0, size, size=(int(generator.integers(0, 9)), 3))
    labels, beta = generator.integers(0, 3, size=size), generator.uniform(0.5, 1.3, size=3)
    squares, pulls, pushes, total, active = [], [], [], 0.0, 0
    for a, p, n in triplets:
        squares.append(max(0.0, sum((x[a] - x[p]) ** 2) - sum((x[a] - x[n]) ** 2) + 0.3))
        pulls.append(max(0.0, math.sqrt(sum((x[a] - x[p] + 1e-6) ** 2)) - 0.1))
        pushes.append(max(0.0, 0.9 - math.sqrt(sum((x[a] - x[n] + 1e-6) ** 2))))
        pull = max(0.0, math.sqrt(sum((x[a] - x[p]) ** 2) + 1e-8) - beta[labels[a]] + 0.25)
        push = max(0.0, beta[labels[a]] - math.sqrt(sum((x[a] - x[n]) ** 2) + 1e-8) + 0.25)
        total, active = total + pull + push, active + (pull > 0 or push > 0)
    rows, y, t, b = torch_of(x, labels, triplets, beta)
    close(triplet_loss(rows, t, margin=0.3), sum(squares) / max(len(squares), 1))
    wanted = (sum(pulls) + sum(pushes)) / max(len(pulls), 1)
    close(contrastive_loss(rows, t, positive_margin=0.1, negative_margin=0.9), wanted)
    close(margin_loss(rows, y, t, b, margin=0.25), total / max(active, 1))


def naive_multi_similarity(
    x: Array, labels: NDArray[np.int64], ref: Array | None, ref_labels: NDArray[np.int64] | None, epsilon: float | None
) -> float:
    others, classes = (x, labels) if ref is None or ref_labels is None else (ref, ref_labels)
    kept = []
    for i in range(len(x)):
        known = [j for j in range(len(others)) if classes[j] >= 0 and labels[i] >= 0]
        positives = [x[i] @ others[j] for j in known if classes[j] == labels[i] and not (ref is None and i == j)]
        negatives = [x[i] @ others[j] for j in known if classes[j] != labels[i]]
        if not positives or not negatives:
            continue
        if epsilon is not None:
            least, largest = min(positives), max(negatives)
            positives = [s for s in positives if s - epsilon < largest]
            negatives = [s for s in negatives if s + epsilon > least]
        if positives and negatives:
            pull = math.log(1 + sum(math.exp(-2 * (s - 0.5)) for s in positives)) / 2
            kept.append(pull + math.log(1 + sum(math.exp(40 * (s - 0.5)) for s in negatives)) / 40)
    return sum(kept) / max(len(kept), 1)


@quick
@given(SEEDS, st.booleans(), st.sampled_from([0.1, 0.6, None]))
def test_multi_similarity(seed: int, reference: bool, epsilon: float | None) -> None:
    generator, x, labels = batch(seed)
    ref = unit(generator, int(generator.integers(1, 9)), x.shape[1]) if reference else None
    ref_labels = generator.integers(-1, 4, size=len(ref)) if ref is not None else None
    given_ref = torch_of(ref, ref_labels) if ref is not None and ref_labels is not None else ()
    found = multi_similarity_loss(*torch_of(x, labels), *given_ref, epsilon=epsilon)
    close(found, naive_multi_similarity(x, labels, ref, ref_labels, epsilon))


@quick
@given(SEEDS, st.booleans(), st.sampled_from([0.0, 0.2]))
def test_batch_hard(seed: int, reference: bool, margin: float) -> None:
    generator, x, labels = batch(seed)
    ref = unit(generator, int(generator.integers(1, 9)), x.shape[1]) if reference else x
    classes = generator.integers(-1, 4, size=len(ref)) if reference else labels
    hinges = []
    for i in range(len(x)):
        d = [max(1e-6, float(np.linalg.norm(x[i] - row))) for row in ref]
        positives = [d[j] for j in range(len(ref)) if labels[i] >= 0 and classes[j] == labels[i]]
        negatives = [d[j] for j in range(len(ref)) if labels[i] >= 0 and classes[j] >= 0 and classes[j] != labels[i]]
        if positives and negatives:
            hinges.append(max(0.0, max(positives) - min(negatives) + margin))
    rows, y, ref_x, ref_labels = torch_of(x, labels, ref, classes)
    second = {"ref_x": ref_x, "ref_labels": ref_labels} if reference else {}
    close(batch_hard_triplet_loss(rows, y, margin=margin, **second), sum(hinges) / max(len(hinges), 1))


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_equally_far_rows_share_the_gradient_of_batch_hard(margin: float) -> None:
    """As the released code's max and min over one row of distances do (spec 1.1), so that the order of duplicates is nothing."""
    corners = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 1, 2, 0, 1]]
    y = torch.tensor([0, 0, 1, 1, 2, 2, 3])
    found, wanted = (corners.clone().requires_grad_() for _ in range(2))
    loss = batch_hard_triplet_loss(found, y, margin=margin)
    apart = (wanted[:, None] - wanted[None]).square().sum(dim=2).clamp_min(1e-12).sqrt()
    hinges = [apart[i][y == y[i]].max() - apart[i][y != y[i]].min() + margin for i in range(len(y))]
    expected = torch.stack(hinges).relu().mean()  # its gradient at 0 is 0; that of clamp_min differs between versions of torch
    close(loss, expected.item())
    torch.testing.assert_close(torch.autograd.grad(loss, found), torch.autograd.grad(expected, wanted))


@quick
@given(SEEDS)
def test_losses_of_tuples(seed: int) -> None:
    generator = np.random.default_rng(seed)
    queries, members, dim = (int(generator.integers(1, 6)) for _ in range(3))
    anchor, others = unit(generator, queries, dim), unit(generator, queries, members, dim)
    others *= generator.uniform(0.5, 2, size=(queries, members, 1))  # cosine and dot product must be told apart
    positive = generator.random((queries, members)) < 0.5
    released = paper = similarity = every = per_anchor = 0.0
    for q in range(queries):
        pull = push = 1.0
        hinges = []
        for m in range(members):
            a, o = anchor[q], others[q, m]
            length, dot = math.sqrt(sum((a - o + 1e-6) ** 2)), float(a @ o)
            cosine = dot / float(np.linalg.norm(o))
            released += 0.5 * length**2 if positive[q, m] else 0.5 * max(0.0, 0.8 - length) ** 2
            paper += -cosine if positive[q, m] else max(0.0, cosine - 0.8)
            pull += math.exp(-1.5 * (dot - 0.6)) if positive[q, m] else 0
            push += 0 if positive[q, m] else math.exp(3 * (dot - 0.6))
            for n in range(members):
                if positive[q, m] and not positive[q, n]:
                    hinges.append(max(0.0, sum((a - o) ** 2) - sum((a - others[q, n]) ** 2) + 0.1))
        similarity += math.log(pull) / 1.5 + math.log(push) / 3
        every, per_anchor = every + sum(hinges), per_anchor + sum(hinges) / max(len(hinges), 1)
    tensors = torch_of(anchor, others, positive)
    close(tuple_contrastive_loss(*tensors, margin=0.8), released)
    close(tuple_contrastive_loss(*tensors, margin=0.8, form="paper"), paper)
    close(tuple_multi_similarity_loss(*tensors, alpha=1.5, beta=3), similarity / queries)
    close(tuple_multi_similarity_loss(*tensors, alpha=1.5, beta=3, reduction="sum"), similarity)
    close(tuple_triplet_loss(*tensors), every)
    close(tuple_triplet_loss(*tensors, reduction="mean"), per_anchor / queries)


def test_multi_similarity_equals_a_peer_library() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    generator = torch.Generator().manual_seed(0)
    x, ref = (torch.nn.functional.normalize(torch.randn(9, 5, generator=generator, dtype=torch.float64)) for _ in range(2))
    labels, ref_labels = torch.arange(9) % 3, torch.arange(9) % 3
    peer = losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
    torch.testing.assert_close(multi_similarity_loss(x, labels, epsilon=None), peer(x, labels))
    wanted = peer(x, labels, ref_emb=ref, ref_labels=ref_labels)
    torch.testing.assert_close(multi_similarity_loss(x, labels, ref, ref_labels, epsilon=None), wanted)


def test_gradients_of_the_asymmetric_forms() -> None:
    generator = torch.Generator().manual_seed(3)
    x, ref = (torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels = torch.tensor([0, 0, 1, 1, 2, -1])
    triplets = torch.tensor([[0, 1, 2], [3, 2, 4], [4, 4, 0]])
    for loss in (
        lambda x, ref: multi_similarity_loss(x, labels, ref, labels, beta=5, epsilon=None),
        lambda x, ref: batch_hard_triplet_loss(x, labels, margin=3.0, ref_x=ref, ref_labels=labels),
        lambda x, ref: triplet_loss(x, triplets, margin=9.0, ref_x=ref),
        lambda x, ref: contrastive_loss(x, triplets, negative_margin=9.0, ref_x=ref),
        lambda x, ref: margin_loss(x, labels, triplets, 1.0, ref_x=ref),
    ):
        assert torch.autograd.gradcheck(loss, (x, ref))


@pytest.mark.parametrize("size", [3, 6, 8, 14])
def test_batch_hards_gradient_has_the_precision_of_float64(size: int) -> None:
    """One over the batch is no number of float32 unless the batch is a power of two."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, 6, dtype=torch.float64, generator=generator)
    labels = torch.arange(size) // 2
    found, wanted = (x.clone().requires_grad_() for _ in range(2))
    apart = (wanted[:, None] - wanted[None]).square().sum(dim=2).clamp_min(1e-12).sqrt()
    hinges = [apart[i][labels == labels[i]].max() - apart[i][labels != labels[i]].min() + 0.2 for i in range(size)]
    (theirs,) = torch.autograd.grad(torch.stack(hinges).relu().mean(), wanted)
    (ours,) = torch.autograd.grad(batch_hard_triplet_loss(found, labels, margin=0.2), found)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reference", [False, True])
def test_batch_hards_written_out_gradient_is_that_of_finite_differences(reference: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x, ref = (torch.randn(rows, 4, dtype=torch.float64, generator=generator).requires_grad_() for rows in (9, 7))
    labels, ref_labels = torch.tensor([0, 0, 1, 1, 2, 2, -1, 3, 4]), torch.tensor([0, 1, 2, 2, 0, -1, 5])
    own = {"ref_labels": ref_labels} if reference else {}

    def loss(x: Tensor, ref: Tensor) -> Tensor:
        return batch_hard_triplet_loss(x, labels, margin=0.3, ref_x=ref if reference else None, **own)

    assert torch.autograd.gradcheck(loss, (x, ref if reference else ref.detach()))

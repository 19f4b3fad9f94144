"""Losses with their samplers at the papers' batch of 112, forward and backward, against pytorch-metric-learning.

python benchmarks/bench_losses.py          # seconds
"""

from __future__ import annotations

from functools import cache

import torch
from pytorch_metric_learning import losses as peers
from pytorch_metric_learning import miners
from ratio import device, heading, ratio
from torch import Tensor, nn

from dmkd.losses import Margin, MultiSimilarity, Triplet, margin_loss
from dmkd.mining import MINERS

LABELS = torch.arange(56).repeat_interleave(2).to(device())
PML = "pytorch-metric-learning"


@cache
def rows() -> Tensor:
    """The batch; made once, since drawing it is no part of a loss."""
    torch.manual_seed(0)
    return nn.functional.normalize(torch.randn(112, 128), dim=1).to(device())


def step(loss: nn.Module, mine: nn.Module | None = None) -> Tensor:
    """Value of a loss after forward and backward; `mine` draws the tuples of a peer's."""
    x = rows().clone().requires_grad_()
    value: Tensor = loss(x, LABELS, mine(x.detach(), LABELS)) if mine else loss(x, LABELS)
    value.backward()
    return value.detach()


def multi_similarity() -> None:
    ours, peer = MultiSimilarity().build(128, 56), peers.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    # The peer averages over all anchors, the papers' released code over those that keep a pair.
    kept = len(torch.unique(miner(rows(), LABELS)[0]))
    torch.testing.assert_close(step(ours), step(peer, miner) * 112 / kept, rtol=1e-4, atol=1e-5)
    ratio("multi-similarity, batch 112", lambda: step(ours), lambda: step(peer, miner), peer_name=PML, repeats=30, goal=0.6)


def margin() -> None:
    ours, peer = Margin().build(128, 56).to(device()), peers.MarginLoss(margin=0.2, beta=1.2, learn_beta=True, num_classes=56)
    sampler = miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)
    # Both draw at random; on the same triplets they give the same value, but that the peer divides by the hinges that are active
    # and the papers' released code by the triplets that have one.
    drawn, x = ours.sampler(rows(), LABELS).compact(), rows()  # type: ignore[operator]
    anchor, positive, negative = (x[column] for column in drawn.unbind(1))
    hinges = torch.stack([(anchor - positive).norm(dim=1) - 1.2, 1.2 - (anchor - negative).norm(dim=1)]) + 0.2 > 0
    value = margin_loss(x, LABELS, drawn, ours.beta, margin=0.2)  # type: ignore[arg-type]
    theirs = peer.to(device())(x, LABELS, tuple(drawn.unbind(1)))
    torch.testing.assert_close((value * hinges.any(0).sum() / hinges.sum()).detach(), theirs.detach(), rtol=1e-4, atol=1e-5)
    sides = (lambda: step(ours), lambda: step(peer, sampler))
    ratio("margin, distance-weighted, batch 112", *sides, peer_name=PML, repeats=30, goal=0.25)


def batch_hard_triplet() -> None:
    ours, peer, miner = (
        Triplet(margin=0.2, sampler="batch_hard").build(128, 56),
        peers.TripletMarginLoss(0.2),
        miners.BatchHardMiner(),
    )
    torch.testing.assert_close(step(ours), step(peer, miner), rtol=1e-4, atol=1e-5)
    ratio("batch-hard triplet, batch 112", lambda: step(ours), lambda: step(peer, miner), peer_name=PML, repeats=30, goal=0.6)
    batch_hard = MINERS["batch_hard"]
    found, theirs = batch_hard(rows(), LABELS), torch.stack(miner(rows(), LABELS), dim=1)
    assert torch.equal(found[:, [0, 2]], theirs[:, [0, 2]])
    sides = (lambda: batch_hard(rows(), LABELS), lambda: miner(rows(), LABELS))
    ratio("batch-hard miner, batch 112", *sides, peer_name=PML, repeats=30, goal=0.6)


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors of 112 x 112: a second thread only waits, and its waiting counts as CPU time
    heading()
    multi_similarity()
    margin()
    batch_hard_triplet()

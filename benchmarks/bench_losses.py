"""Losses with their samplers at the papers' batch of 112, forward and backward, against pytorch-metric-learning."""

from __future__ import annotations

import torch
from pytorch_metric_learning import losses as peers
from pytorch_metric_learning import miners
from ratio import heading, ratio

from dmkd.losses import Margin, MultiSimilarity


def main() -> None:
    heading()
    torch.manual_seed(0)
    labels = torch.arange(56).repeat_interleave(2)
    base = torch.nn.functional.normalize(torch.randn(112, 128), dim=1)

    def step(loss: torch.nn.Module, mine: torch.nn.Module | None = None) -> torch.Tensor:
        x = base.clone().requires_grad_()
        value: torch.Tensor = loss(x, labels, mine(x.detach(), labels)) if mine else loss(x, labels)
        value.backward()
        return value.detach()

    ours, peer = MultiSimilarity().build(128, 56), peers.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    # The peer averages over all anchors, the papers' released code over those that keep a pair.
    kept = len(torch.unique(miner(base, labels)[0]))
    torch.testing.assert_close(step(ours), step(peer, miner) * 112 / kept, rtol=1e-4, atol=1e-5)
    ratio("multi-similarity", lambda: step(ours), lambda: step(peer, miner), peer_name="pytorch-metric-learning", repeats=30)

    # Both draw their negatives at random, so the values agree in distribution only; tests compare the probabilities themselves.
    ours, peer = Margin().build(128, 56), peers.MarginLoss(margin=0.2, beta=1.2, learn_beta=True, num_classes=56)
    sampler = miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)
    ratio(
        "margin, distance-weighted",
        lambda: step(ours),
        lambda: step(peer, sampler),
        peer_name="pytorch-metric-learning",
        repeats=30,
    )


if __name__ == "__main__":
    main()

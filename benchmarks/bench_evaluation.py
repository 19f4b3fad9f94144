"""Recall@1 and mAP@R of 5,924 x 512 embeddings in 100 classes (the size of CUB's test half), against a calculator."""

from __future__ import annotations

import numpy as np
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from ratio import heading, ratio

from dmkd.evaluation import mean_average_precision_at_r, recall_at_k


def main() -> None:
    heading()
    generator = np.random.default_rng(0)
    labels = torch.from_numpy(generator.integers(0, 100, 5924))
    centres = generator.normal(size=(100, 512))
    x = torch.from_numpy(centres[labels] + 6 * generator.normal(size=(5924, 512))).float()
    x = torch.nn.functional.normalize(x, dim=1)
    ids = torch.arange(len(x))
    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count")

    def ours() -> tuple[float, float]:
        searched = (x, x, labels, labels)
        recall = recall_at_k(*searched, query_ids=ids, gallery_ids=ids)[1]
        return recall, float(mean_average_precision_at_r(*searched, query_ids=ids, gallery_ids=ids))

    def peer() -> tuple[float, float]:
        found = calculator.get_accuracy(x, labels)
        return found["precision_at_1"], found["mean_average_precision_at_r"]

    np.testing.assert_allclose(ours(), peer(), atol=2e-4)
    ratio("R@1 and mAP@R, 5,924 x 512", ours, peer, peer_name="pytorch-metric-learning")


if __name__ == "__main__":
    main()

"""From networks and pictures to metrics: who embeds the queries, who the gallery, at which resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmkd.data import Data
from dmkd.data.batches import test_batches
from dmkd.data.datasets import Pictures
from dmkd.errors import DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.embed import embed
from dmkd.evaluation.protocol import Outcomes, evaluate
from dmkd.models.embedder import EmbeddingNet


@dataclass(frozen=True)
class Side:
    """One side of a search: the network that embeds it and the side of its square crop in pixels."""

    network: EmbeddingNet
    resolution: int


@dataclass(frozen=True)
class Measure:
    """How a part of a data set is measured: its pictures, the test transform, the protocol and the metrics."""

    part: Pictures
    data: Data
    evaluation: Evaluation
    device: torch.device

    def embed(self, side: Side, positions: Sequence[int] | None = None) -> Tensor:
        """[N, D] float32 embeddings of the part (or of some of its positions) on the CPU."""
        batches = test_batches(
            self.part,
            side.resolution,
            positions=positions,
            crop_ratio=self.data.crop_ratio,
            batch_size=self.evaluation.batch_size,
            workers=self.data.workers,
            interpolation=side.network.preprocess.interpolation,
        )
        return embed(side.network, batches, self.device)

    def compare(self, queries: Tensor, gallery: Tensor) -> tuple[dict[str, float], Outcomes]:
        """Every picture is a query against all others; its own copy is junk, and under the strict protocol its group too.

        `queries` and `gallery` [N, D] are embeddings of the same pictures (by different networks when asymmetric).
        """
        labels = torch.from_numpy(self.part.labels)
        identity = torch.arange(len(labels))
        groups = None
        if self.data.protocol == "strict":
            if self.part.groups is None:
                raise DataError(
                    f"data.protocol=strict, but {self.part.name!r} names no groups: give a manifest with a column 'group'"
                )
            groups = torch.from_numpy(self.part.groups)
        return evaluate(
            queries,
            gallery,
            labels,
            labels,
            evaluation=self.evaluation,
            query_ids=identity,
            gallery_ids=identity,
            query_groups=groups,
            gallery_groups=groups,
        )

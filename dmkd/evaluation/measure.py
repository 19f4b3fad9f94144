"""From networks and pictures to metrics: who embeds the queries, who the gallery, at which resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmkd.data import Data, Quality
from dmkd.data.batches import test_batches
from dmkd.data.pictures import GALLERY, QUERY, Pictures
from dmkd.data.sized import sized_batches
from dmkd.errors import DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.embed import embed
from dmkd.evaluation.multiscale import MultiScale
from dmkd.evaluation.protocol import Outcomes, evaluate
from dmkd.models.embedder import EmbeddingNet


@dataclass(frozen=True)
class Side:
    """One side of a search: the network that embeds it, and the side of its square crop (or the longer one of whole pictures)."""

    network: EmbeddingNet
    resolution: int
    role: str = "student"
    """Whose quality of pictures it sees (`Data.quality`): "student", or "teacher" for a pretrained one."""


@dataclass(frozen=True)
class Measure:
    """How a part of a data set is measured: its pictures, the test transform, the protocol and the metrics."""

    part: Pictures
    data: Data
    evaluation: Evaluation
    device: torch.device
    """Where networks run, and similarities are computed."""
    training_classes: int = 0
    """How many clusters the released forms of NMI and F1 have; 0: not known."""

    def embed(self, side: Side, positions: Sequence[int] | None = None) -> Tensor:
        """[N, D] float32 embeddings of the part (or of some of its positions) on the CPU; zeros where a picture is broken."""
        if self.data.transform == "max_side":
            return self.embed_whole(side, (1.0,), self.data.quality(side.role), positions)
        batches = test_batches(
            self.part,
            side.resolution,
            positions=positions,
            crop_ratio=self.data.crop_ratio,
            batch_size=self.evaluation.batch_size,
            workers=self.data.workers,
            interpolation=side.network.preprocess.interpolation,
            quality=self.data.quality(side.role),
            raw=self.device.type == "cuda",
        )
        return self._placed(embed(side.network, batches, self.device), positions)

    def embed_whole(
        self, side: Side, scales: tuple[float, ...], quality: Quality, positions: Sequence[int] | None = None
    ) -> Tensor:
        """[N, D] float32 embeddings of whole pictures, longer side at most `side.resolution`, over `scales` of them; zeros where
        a picture is broken."""
        # As many pixels at a time as a batch of usual squares has.
        together = max(1, self.evaluation.batch_size * 224**2 // side.resolution**2)
        batches = sized_batches(
            self.part,
            side.resolution,
            batch_size=together,
            workers=self.data.workers,
            positions=positions,
            quality=quality,
        )
        return self._placed(embed(MultiScale(side.network, scales), batches, self.device), positions)

    def _placed(self, embedded: Tensor, positions: Sequence[int] | None) -> Tensor:
        """What was embedded, in the rows of the pictures that could be read."""
        read = torch.from_numpy(self.part.readable())
        read = read if positions is None else read[torch.as_tensor(positions, dtype=torch.int64)]
        if read.all():
            return embedded
        rows = embedded.new_zeros(len(read), embedded.shape[1])
        rows[read] = embedded
        return rows

    def compare(self, queries: Tensor, gallery: Tensor) -> tuple[dict[str, float], Outcomes]:
        """Every picture is a query against all others; its own copy is junk, and under the strict protocol its group too.

        `queries` and `gallery` [N, D] are embeddings of the same pictures (by different networks when asymmetric). Where the part
        has roles, queries meet gallery pictures alone. Broken pictures are on neither side. Outcomes name positions in the part.
        """
        asked, shown = self.sides()
        groups = None
        if self.data.protocol == "strict":
            if self.part.groups is None:
                raise DataError(
                    f"data.protocol=strict, but {self.part.name!r} names no groups: give a manifest with a column 'group'"
                )
            groups = torch.from_numpy(self.part.groups)
        labels = torch.from_numpy(self.part.labels)
        query_rows = _rows(queries, asked)
        metrics, outcomes = evaluate(
            query_rows,
            query_rows if queries is gallery and torch.equal(asked, shown) else _rows(gallery, shown),
            labels[asked],
            labels[shown],
            evaluation=self.evaluation,
            training_classes=self.training_classes,
            device=self.device,
            query_ids=asked,
            gallery_ids=shown,
            query_groups=None if groups is None else groups[asked],
            gallery_groups=None if groups is None else groups[shown],
        )
        return metrics, replace(outcomes, query=asked.numpy()[outcomes.query])

    def sides(self) -> tuple[Tensor, Tensor]:
        """Positions of the queries, and of the gallery."""
        read = torch.from_numpy(self.part.readable())
        role = torch.zeros(len(read)) if self.part.role is None else torch.from_numpy(self.part.role)
        return tuple((read & (role != other)).nonzero().reshape(-1) for other in (GALLERY, QUERY))  # type: ignore[return-value]


def _rows(x: Tensor, positions: Tensor) -> Tensor:
    return x if len(positions) == len(x) else x[positions]

"""Retrieval metrics and protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dmkd.space import Limit


@dataclass(frozen=True)
class Evaluation:
    """When and what to measure."""

    every: Annotated[int, Limit(minimum=1)] = 1
    """Epochs between validations; the last epoch is always validated."""
    k: Annotated[tuple[int, ...], Limit(minimum=1)] = (1, 2, 4, 8)
    """K of Recall@K."""
    nmi: bool = True
    """Cluster the embeddings too (k-means with as many clusters as the part has classes)."""
    test: bool = False
    """Evaluate once on the test classes after the last epoch (a counted test look)."""
    batch_size: Annotated[int, Limit(minimum=1)] = 112

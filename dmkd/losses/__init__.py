"""Base losses: pure functions, modules around them, and the configuration that names them.

Pure functions work on the vectors as given and normalise nothing, except where they say cosine; float64 in, float64 out; half
precision is computed in, and comes out as, float32.
"""

from __future__ import annotations

from dmkd.losses.base import Loss
from dmkd.losses.contrastive import Contrastive, contrastive_loss, tuple_contrastive_loss
from dmkd.losses.library import Library
from dmkd.losses.margin import Margin, margin_loss
from dmkd.losses.multi_similarity import MultiSimilarity, multi_similarity_loss, tuple_multi_similarity_loss
from dmkd.losses.triplet import Triplet, batch_hard_triplet_loss, triplet_loss, tuple_triplet_loss

LOSSES: dict[str, type[Loss]] = {cls.name: cls for cls in (MultiSimilarity, Margin, Triplet, Contrastive, Library)}

__all__ = [
    "LOSSES",
    "Contrastive",
    "Library",
    "Loss",
    "Margin",
    "MultiSimilarity",
    "Triplet",
    "batch_hard_triplet_loss",
    "contrastive_loss",
    "margin_loss",
    "multi_similarity_loss",
    "triplet_loss",
    "tuple_contrastive_loss",
    "tuple_multi_similarity_loss",
    "tuple_triplet_loss",
]

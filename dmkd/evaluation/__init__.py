"""Retrieval metrics and protocols. Importing this package imports neither torch nor faiss: the functions load when first used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from dmkd.space import Limit, OneOf

if TYPE_CHECKING:
    from dmkd.evaluation.clustering import clustering_f1, kmeans, nmi
    from dmkd.evaluation.embedding_space import embedding_density, spectral_decay
    from dmkd.evaluation.protocol import Outcomes, evaluate, protocol_fingerprint, write_outcomes
    from dmkd.evaluation.retrieval import mean_average_precision, mean_average_precision_at_r, mean_precision_at_k, recall_at_k
    from dmkd.evaluation.revisited import revisited_map
    from dmkd.evaluation.whitening import learn_whitening

__all__ = [
    "Evaluation",
    "Outcomes",
    "clustering_f1",
    "embedding_density",
    "evaluate",
    "kmeans",
    "learn_whitening",
    "mean_average_precision",
    "mean_average_precision_at_r",
    "mean_precision_at_k",
    "nmi",
    "protocol_fingerprint",
    "recall_at_k",
    "revisited_map",
    "spectral_decay",
    "write_outcomes",
]

_HOME = {
    "clustering": ("clustering_f1", "kmeans", "nmi"),
    "embedding_space": ("embedding_density", "spectral_decay"),
    "protocol": ("Outcomes", "evaluate", "protocol_fingerprint", "write_outcomes"),
    "retrieval": ("mean_average_precision", "mean_average_precision_at_r", "mean_precision_at_k", "recall_at_k"),
    "revisited": ("revisited_map",),
    "whitening": ("learn_whitening",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}


@dataclass(frozen=True)
class Evaluation:
    """When and what to measure."""

    every: Annotated[int, Limit(minimum=1)] = 1
    """Epochs between validations; the last epoch is always validated."""
    k: Annotated[tuple[int, ...], Limit(minimum=1)] = (1, 2, 4, 8)
    """K of Recall@K."""
    average_precision: Annotated[str, OneOf(("step", "trapezoidal"))] = "step"
    """AP behind `map`: "step" (fine-grained sets), or the Oxford trapezoid (RAML's and the landmark tables)."""
    nmi: bool = True
    """Cluster the embeddings too (k-means with as many clusters as the part has classes)."""
    test: bool = False
    """Evaluate once on the test classes after the last epoch (a counted test look)."""
    batch_size: Annotated[int, Limit(minimum=1)] = 112


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)

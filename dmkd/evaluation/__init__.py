"""Retrieval metrics and protocols. Importing this package imports neither torch nor faiss: the functions load when first used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from dmkd.data import LANDMARKS
from dmkd.evaluation.names import METRICS
from dmkd.space import Limit, OneOf

if TYPE_CHECKING:
    from dmkd.evaluation.clustering import clustering_f1, kmeans, nmi
    from dmkd.evaluation.embedding_space import embedding_density, spectral_decay
    from dmkd.evaluation.protocol import Outcomes, evaluate, protocol_fingerprint, write_outcomes
    from dmkd.evaluation.retrieval import (
        mean_average_precision,
        mean_average_precision_at_r,
        mean_precision_at_k,
        r_precision,
        recall_at_k,
    )
    from dmkd.evaluation.revisited import revisited_map
    from dmkd.evaluation.whitening import learn_whitening

__all__ = [
    "METRICS",
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
    "r_precision",
    "recall_at_k",
    "revisited_map",
    "spectral_decay",
    "write_outcomes",
]

_HOME = {
    "clustering": ("clustering_f1", "kmeans", "nmi"),
    "embedding_space": ("embedding_density", "spectral_decay"),
    "protocol": ("Outcomes", "evaluate", "protocol_fingerprint", "write_outcomes"),
    "retrieval": ("mean_average_precision", "mean_average_precision_at_r", "mean_precision_at_k", "r_precision", "recall_at_k"),
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
    metrics: Annotated[tuple[str, ...], OneOf(tuple(METRICS))] = ()
    """Metrics to log beside Recall@K, `map`, mAP@R, R-precision and NMI (`dmkd.evaluation.METRICS`, docs/protocols.md)."""
    max_queries: Annotated[int, Limit(minimum=0)] = 0
    """Search with so many queries, drawn once for all runs, where there are more (Yu: 10000, which concerns SOP); 0: with all."""
    query_resolutions: Annotated[tuple[int, ...], Limit(minimum=16, maximum=4096)] = ()
    """After the last epoch, search with queries of these resolutions too: keys `test_q112_g224/map`, `test_asymmetric_...`."""
    gallery_resolutions: Annotated[tuple[int, ...], Limit(minimum=16, maximum=4096)] = ()
    """The gallery's resolutions for that; empty: the one of the network that embeds it."""
    train: bool = False
    """After the last epoch, measure the training classes too: `train/embedding_density` (S2SD's Figure 2, OBD-SD's Table 8)."""
    test: bool = False
    """Evaluate once on the test classes after the last epoch (a counted test look)."""
    batch_size: Annotated[int, Limit(minimum=1)] = 112
    landmarks: Annotated[tuple[str, ...], OneOf(LANDMARKS)] = ()
    """Landmark test sets that the test look measures too (roxford5k, rparis6k; oxford5k, paris6k: AML's Table 3)."""
    landmark_root: str = ""
    """Folder with a folder for each landmark test set; empty: `$DMKD_DATA`."""
    max_side: Annotated[int, Limit(minimum=16)] = 1024
    """Landmark tests: pixels a picture's longer side is reduced to, never enlarged; a query's box by its picture's factor."""
    scales: Annotated[tuple[float, ...], Limit(above=0, maximum=2)] = (1.0, 0.5**0.5, 0.5)
    """Landmark tests: scales of a picture whose vectors are averaged, by GeM's learned exponent where that is the last step."""
    whitening: Annotated[str, OneOf(("none", "pairs"))] = "none"
    """Landmark tests: pairs: whitening learned from SfM-120k's pairs, in the space of the network that embeds the database, and
    applied to both sides (AML's tables but for Table 3)."""
    whitening_root: str = ""
    """Folder of SfM-120k for that; empty: that of the run's own data, where they are SfM-120k, else `$DMKD_DATA/sfm120k`."""
    whitening_pairs: Annotated[int, Limit(minimum=0)] = 0
    """Learn it from so many of the pairs, evenly spread over them, and their pictures alone; 0: all."""

    @property
    def protocol(self) -> str:
        """What the numbers depend on beside networks, split, junk rule and form of AP, for the protocol's fingerprint."""
        capped = f"{self.max_queries} queries" if self.max_queries else ""
        return " ".join(filter(None, (capped, self.landmark_protocol)))

    @property
    def landmark_protocol(self) -> str:
        """What the landmark tests' numbers depend on beside the networks, for the protocol's fingerprint; empty without them."""
        if not self.landmarks:
            return ""
        learned = f"{self.whitening}:{self.whitening_pairs}" if self.whitening != "none" else "none"
        return "/".join([*sorted(self.landmarks), str(self.max_side), *(f"{scale:.6g}" for scale in self.scales), learned])


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)

"""Base losses: pure functions, modules around them, and the configuration that names them.

Pure functions work on the vectors as given and normalise nothing, except where they say cosine; float64 in, float64 out; half
precision is computed in, and comes out as, float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dmkd.losses.base import Loss
from dmkd.losses.contrastive import Contrastive, contrastive_loss, tuple_contrastive_loss
from dmkd.losses.library import Library
from dmkd.losses.margin import Margin, margin_loss
from dmkd.losses.multi_similarity import MultiSimilarity, multi_similarity_loss, tuple_multi_similarity_loss
from dmkd.losses.triplet import Triplet, batch_hard_triplet_loss, triplet_loss, tuple_triplet_loss

LOSSES: dict[str, type[Loss]] = {cls.name: cls for cls in (MultiSimilarity, Margin, Triplet, Contrastive, Library)}
"""`loss.name` -> its configuration."""


class LossPresets(Mapping[str, Loss]):
    """Ready configurations by name; "library.X" is loss X of pytorch-metric-learning, whether or not the library is installed."""

    def __init__(self, named: Mapping[str, Loss]) -> None:
        self._named = named

    def __getitem__(self, name: str) -> Loss:
        if name in self._named:
            return self._named[name]
        head, dot, loss = name.partition(".")
        if head != Library.name or not dot:
            raise KeyError(name)
        return Library(loss)

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


PRESETS = LossPresets(
    {
        "r_margin_cub": Margin(beta=0.6, sampler="rho", switch=0.4),
        "r_margin_cars": Margin(beta=0.6, sampler="rho", switch=0.35),
        "r_margin_sop": Margin(beta=0.6, sampler="rho", switch=0.15),
        "yu_triplet": Triplet(margin=0.0, sampler="batch_hard"),
    }
)
"""`loss.preset` (or `loss: NAME`) -> as published. R-margin's switches are those of Revisiting DML's runs; S2SD and OBD-SD print
none. Yu et al. name a margin "m" and release 0."""

__all__ = [
    "LOSSES",
    "PRESETS",
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

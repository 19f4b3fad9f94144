"""Tuple samplers: which triplets of a batch a loss sees, and which negatives of a pool an epoch sees.

Samplers work on detached embeddings and draw from torch's global generator; `SAMPLERS` names them. A loss takes what they give
as it is, so that a GPU is not waited for; `MINERS` are the same with the triplets that count alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from dmkd.errors import ConfigError
from dmkd.mining.batch_hard import batch_hard
from dmkd.mining.distance_weighted import distance_weighted, distance_weighted_probabilities, weighted_negatives
from dmkd.mining.hard_negatives import hard_negatives
from dmkd.mining.pairs import Miner, Sampler, Triplets
from dmkd.mining.random import all_triplets, every, random
from dmkd.mining.rho import rho
from dmkd.mining.semihard import semihard, semihard_candidates
from dmkd.mining.softhard import softhard, softhard_candidates
from dmkd.space import nearest

SAMPLERS: dict[str, Sampler] = {
    "all": every,
    "batch_hard": batch_hard,
    "distance_weighted": distance_weighted,
    "random": random,
    "rho": rho,
    "semihard": semihard,
    "softhard": softhard,
}
"""`sampler` of a loss -> the function. "all" and "random" wait for the device, the others give one triplet an anchor."""


def _compacted(sampler: Callable[..., Triplets]) -> Miner:
    def mine(x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None, **options: Any) -> Tensor:
        return sampler(x, labels, ref_x, ref_labels, **options).compact()

    return mine


MINERS: dict[str, Miner] = {name: _compacted(sampler) for name, sampler in SAMPLERS.items()}
"""The same names."""


def find_sampler(name: str, **options: Any) -> Sampler:
    """The sampler of this name with its options set. Raises `ConfigError` with the nearest known name."""
    if name not in SAMPLERS:
        raise ConfigError(f"sampler: unknown {name!r}: {nearest(name, SAMPLERS)}")
    return partial(SAMPLERS[name], **options)


def find_miner(name: str, **options: Any) -> Miner:
    """As `find_sampler`; its triplets that count alone."""
    return _compacted(find_sampler(name, **options))


__all__ = [
    "MINERS",
    "SAMPLERS",
    "Miner",
    "Sampler",
    "Triplets",
    "all_triplets",
    "distance_weighted_probabilities",
    "find_miner",
    "find_sampler",
    "hard_negatives",
    "semihard_candidates",
    "softhard_candidates",
    "weighted_negatives",
]

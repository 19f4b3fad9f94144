"""Tuple samplers: which triplets of a batch a loss sees, and which negatives of a pool an epoch sees.

Samplers work on detached embeddings and draw from torch's global generator; `MINERS` names them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dmkd.errors import ConfigError
from dmkd.mining.batch_hard import batch_hard
from dmkd.mining.distance_weighted import distance_weighted, distance_weighted_probabilities, weighted_negatives
from dmkd.mining.hard_negatives import hard_negatives
from dmkd.mining.pairs import Miner
from dmkd.mining.random import all_triplets, every, random
from dmkd.mining.rho import rho
from dmkd.mining.semihard import semihard, semihard_candidates
from dmkd.mining.softhard import softhard, softhard_candidates
from dmkd.space import nearest

MINERS: dict[str, Miner] = {
    "all": every,
    "batch_hard": batch_hard,
    "distance_weighted": distance_weighted,
    "random": random,
    "rho": rho,
    "semihard": semihard,
    "softhard": softhard,
}


def find_miner(name: str, **options: Any) -> Miner:
    """The sampler of this name with its options set. Raises `ConfigError` with the nearest known name."""
    if name not in MINERS:
        raise ConfigError(f"sampler: unknown {name!r}: {nearest(name, MINERS)}")
    return partial(MINERS[name], **options)


__all__ = [
    "MINERS",
    "Miner",
    "all_triplets",
    "distance_weighted_probabilities",
    "find_miner",
    "hard_negatives",
    "semihard_candidates",
    "softhard_candidates",
    "weighted_negatives",
]

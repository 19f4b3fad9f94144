"""What an objective may ask for between epochs (`distill.base.EpochContext`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmkd.distill.base import Plan
from dmkd.errors import ConfigError
from dmkd.evaluation.measure import Measure, Side


class Context:
    """The training part seen through the networks of a run, as they stand before an epoch."""

    def __init__(self, epoch: int, plan: Plan, seed: int, training: Measure, sides: Mapping[str, Side]) -> None:
        self.epoch, self.plan = epoch, plan
        self.labels = torch.from_numpy(training.part.labels)
        self._seed, self._training, self._sides = seed, training, sides

    def embed(self, positions: Sequence[int] | Tensor, network: str = "student") -> Tensor:
        """[n, D] embeddings of training images under the test transform. Raises `ConfigError` where there is no such network."""
        if network not in self._sides:
            raise ConfigError(f"this method asked its {network} for embeddings, but there is only {', '.join(self._sides)}")
        return self._training.embed(self._sides[network], [int(position) for position in positions])

    def generator(self) -> Tensor:
        """[] int64 seed that depends on the run's seed and the epoch alone."""
        return torch.tensor(np.random.SeedSequence([self._seed, self.epoch]).generate_state(1)[0], dtype=torch.int64)

"""What an objective may ask for between epochs (`distill.base.EpochContext`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmkd.distill.base import Plan
from dmkd.errors import ConfigError
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.stored import NEVER, stored_embeddings


class Context:
    """The training part seen through the networks of a run, as they stand before an epoch."""

    def __init__(
        self,
        epoch: int,
        plan: Plan,
        seed: int,
        training: Measure,
        sides: Mapping[str, Side],
        *,
        labels: Tensor,
        features: str = NEVER,
    ) -> None:
        """`labels` [N] are what training is told of the part: -1 where withheld; `features` is `Teacher.features`."""
        self.epoch, self.plan = epoch, plan
        self.labels = labels
        self.pairs = None if training.part.pairs is None else torch.from_numpy(training.part.pairs)
        self._seed, self._training, self._sides, self._features = seed, training, sides, features

    def embed(self, positions: Sequence[int] | Tensor, network: str = "student") -> Tensor:
        """[n, D] embeddings of training images under the test transform; a pretrained teacher's of all of them are stored ones.

        Raises `ConfigError` where there is no such network, `CheckpointError` for a given file of features that does not fit.
        """
        if network not in self._sides:
            raise ConfigError(f"this method asked its {network} for embeddings, but there is only {', '.join(self._sides)}")
        side, chosen = self._sides[network], [int(position) for position in positions]
        if side.role == "teacher" and chosen == list(range(len(self._training.part))):
            return stored_embeddings(self._training, side, self._features)
        return self._training.embed(side, chosen)

    def generator(self) -> Tensor:
        """[] int64 seed that depends on the run's seed and the epoch alone."""
        return torch.tensor(np.random.SeedSequence([self._seed, self.epoch]).generate_state(1)[0], dtype=torch.int64)

"""The terms of an epoch: summed for the step, averaged for the log, and stopped where one is not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.errors import TrainingError


class Terms:
    """The terms of an epoch: kept on the device, looked at only as often as a look costs nothing."""

    def __init__(self, device: torch.device, epoch: int) -> None:
        self._epoch = epoch
        self._names: list[str] = []
        self._values: list[Tensor] = []
        self._checked = 0
        self._every = 50 if device.type == "cuda" else 1

    def add(self, terms: dict[str, Tensor]) -> Tensor:
        """Their sum; raises `TrainingError` naming the step and the term where one is not finite (on a GPU within 50 steps)."""
        self._names = list(terms)
        self._values.append(torch.stack([value.detach().float() for value in terms.values()]))
        if len(self._values) - self._checked >= self._every:
            self._check()
        return torch.stack([value.float() for value in terms.values()]).sum()

    def _check(self) -> None:
        window = torch.stack(self._values[self._checked :])
        bad = (~torch.isfinite(window)).nonzero().tolist()
        if bad:
            step, term = bad[0]
            raise TrainingError(
                f"loss term {self._names[term]!r} became {window[step, term].item()} in epoch {self._epoch + 1}, "
                f"batch {self._checked + step + 1}: lower optim.lr or the term's weight, or set optim.clip"
            )
        self._checked = len(self._values)

    def means(self) -> dict[str, float]:
        """`train/<term>` averaged over the epoch's batches, and `train/loss`, their sum."""
        if len(self._values) > self._checked:
            self._check()
        mean = torch.stack(self._values).double().mean(dim=0).tolist()
        return {f"train/{name}": value for name, value in zip(self._names, mean, strict=True)} | {"train/loss": sum(mean)}

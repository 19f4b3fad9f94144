"""The terms of an epoch: summed for the step, averaged for the log, and stopped where one is not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.errors import TrainingError

_EVERY = 50
"""Steps between two questions to a GPU."""


class Terms:
    """The terms of an epoch: kept on the device, looked at only as often as a look costs nothing.

    A GPU is asked every 50 steps whether they are finite, and the answer is read 50 steps later, when it has long come.
    """

    def __init__(self, device: torch.device, epoch: int) -> None:
        self._epoch = epoch
        self._names: list[str] = []
        self._values: list[Tensor] = []
        self._checked = 0
        self._asked = 0
        self._answer: _Fetched | None = None
        self._on_gpu = device.type == "cuda"

    def add(self, terms: dict[str, Tensor]) -> Tensor:
        """Their sum; raises `TrainingError` naming the step and the term where one is not finite (on a GPU within 100 steps)."""
        self._names = list(terms)
        self._values.append(torch.stack([value.detach().float() for value in terms.values()]))
        if not self._on_gpu:
            self._check()
        elif len(self._values) - self._asked >= _EVERY:
            self._ask()
        return torch.stack([value.float() for value in terms.values()]).sum()

    def _ask(self) -> None:
        if self._answer is not None and not self._answer.read():
            self._check()
        self._checked, self._asked = self._asked, len(self._values)
        self._answer = _Fetched(torch.isfinite(torch.stack(self._values[self._checked :])).all())

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


class _Fetched:
    """A flag on its way to the host."""

    def __init__(self, flag: Tensor) -> None:
        self._flag = flag.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.current_stream(flag.device).record_event() if flag.is_cuda else None

    def read(self) -> bool:
        """The flag; waits only where it has not come yet."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return bool(self._flag)

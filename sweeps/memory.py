"""A run that does not fit the memory: one more try in smaller pieces that change no gradient."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmkd.config import Config
from dmkd.space import override, to_dict

if TYPE_CHECKING:
    from dmkd.checkpoint import State
    from dmkd.trainer import Epoch

SMALLER = "smaller-chunks"
"""Marker file in a run's folder: the memory was too small for it as it was configured."""
SHARE = 4
"""The second try takes a quarter of the pictures at a time."""
SIGNS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "status_alloc_failed",
    "allocation_failed",
)
"""The last two: what cuBLAS, cuSOLVER and cuDNN say where nothing is left on the card for their own handles and workspaces."""


def out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch (on a GPU or a CPU) or Python ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)
    )


def smaller(config: Config) -> Config:
    """The same run with smaller chunks: `optim.chunk` (exact, see `dmkd.grad_cache`) and `evaluation.batch_size`.

    Where chunks would not be exact (batch-norm that trains sees each by itself; whole pictures differ in size) only the
    evaluation gets smaller.
    """
    batches, columns = config.method.batches, max(1, config.method.batches.columns)
    rows = batches.size * config.method.views.per_image * (columns if batches.kind == "tuples" else 1)
    changes: dict[str, int] = {"evaluation.batch_size": max(1, config.evaluation.batch_size // SHARE)}
    if config.data.transform != "max_side" and config.student.frozen_batchnorm:
        changes["optim.chunk"] = max(1, (config.optim.chunk or rows) // SHARE)
    return override(config, changes)


class Careful:
    """The epochs of a run (`dmkd.trainer.fit`), with one more try in smaller chunks, from the last saved epoch.

    `state()` says where to go on; `folder` remembers that the memory was too small, for a worker that starts it again; `told`
    gets a tag for the tracker. Chunks are no part of the configuration: the run stays the row that it is.
    """

    def __init__(
        self, settings: Config, state: Callable[[], State | None], folder: Path, told: Callable[[dict[str, object]], None]
    ) -> None:
        self._settings, self._state, self._marker, self._told = settings, state, folder / SMALLER, told
        self._epochs = self._fit()

    def _fit(self) -> Iterator[Epoch]:
        from dmkd.trainer import fit

        used = smaller(self._settings) if self._marker.exists() else self._settings
        state = self._state()
        if state is not None:
            state.payload["config"] = to_dict(used)
        return fit(used, state)

    def __iter__(self) -> Careful:
        return self

    def __next__(self) -> Epoch:
        """The next epoch. Raises what the trainer raises, an out-of-memory error the second time."""
        try:
            return next(self._epochs)
        except Exception as error:
            if self._marker.exists() or not out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
        self._epochs = iter(())
        _free()
        self._marker.write_text(reason, encoding="utf-8")
        self._told({"dmkd.memory": f"tried again in smaller chunks after: {reason}"})
        self._epochs = self._fit()
        return next(self._epochs)


def _free() -> None:
    """Give back what the failed try held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

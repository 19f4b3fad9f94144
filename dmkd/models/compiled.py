"""A network's pass compiled by torch (TorchDynamo, Inductor), with the network as it is to fall back to."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dmkd.caches import machine_cache
from dmkd.models.embedder import EmbeddingNet, Features

FOLDER = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable of torch: where compiled kernels are kept, for every process that runs the same network. Here that is
`$DMKD_CACHE/compiled/<machine>`, unless it says otherwise: torch's own default is a folder in /tmp that anybody may have made."""


class Compiled:
    """The forward pass of `network` in training: normalisation and backbone compiled, the head as it is.

    Equal to rounding; random draws (dropout, stochastic depth) are those of the network as it is. It is compiled when it is first
    called, and anew for a batch of another size. The network runs as it is with stages, which are watched from outside, and after
    torch has failed to compile it, of which a warning tells. `network` is the caller's: its parameters are what trains.
    """

    def __init__(self, network: EmbeddingNet) -> None:
        self.network = network
        _keep_in_own_folder()
        compiled: Any = torch.compile(self._trunk, dynamic=False, options={"fallback_random": True})
        self._run: Callable[[Tensor], Tensor] | None = compiled

    def _trunk(self, images: Tensor) -> Tensor:
        return self.network.backbone.trunk(self.network.normalize(images))

    def __call__(self, images: Tensor, stages: tuple[str, ...] = ()) -> Features:
        """`Features` of images [B, 3, H, W] with the named stages. Raises what the network itself raises."""
        last = None if stages else self._compiled(images)
        if last is None:
            features: Features = self.network(images, stages=stages)
            return features
        return self.network.features(self.network.backbone.as_map(last, images), {})

    def _compiled(self, images: Tensor) -> Tensor | None:
        if self._run is None:
            return None
        try:
            return self._run(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a compiler, linker, driver; what is wrong with the pass itself, the network says next
            self._run = None
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            warnings.warn(f"optim.compile: {self.network.backbone.name} runs as it is, not compiled ({reason})", stacklevel=4)
            return None


def _keep_in_own_folder() -> None:
    chosen, default = os.environ.get(FOLDER), os.path.join(tempfile.gettempdir(), "torchinductor_")
    if chosen and not chosen.startswith(default):  # torch sets its default itself, whenever parts of it are imported
        return
    folder = machine_cache("compiled")
    with contextlib.suppress(OSError):  # where it cannot be made, torch's own has to do
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ[FOLDER] = os.fspath(folder)

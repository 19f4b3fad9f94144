"""Teachers' weights in Ray's object store: read and verified once a sweep, by the driver; the workers of a node share one copy.

The checkpoint folder stays what counts. An object that is lost (its node died, its driver did) is not missed: the file is read.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError
from torch import Tensor

from dmkd.config import Config
from dmkd.errors import CheckpointError
from dmkd.models.saved import WEIGHTS, hold_weights, read_info, read_weights

Stored = Mapping[str, tuple[NDArray[Any], str, tuple[int, ...]]]
"""Name -> bytes (NumPy arrays come out of the store without a copy), type and shape of a tensor."""
SECONDS = 60.0
"""A store that has not delivered by then is left alone."""
_log = logging.getLogger("dmkd")


class Store:
    """In the driver: which weights are in the object store. They stay there while this object lives."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[str, ray.ObjectRef[Stored]]] = {}

    def put(self, folders: Iterable[str]) -> dict[str, ray.ObjectRef[Stored]]:
        """Put the weights of these checkpoint folders; {SHA-256 of the file: object}. What cannot be is left to the workers."""
        found = {}
        for folder in sorted(set(filter(None, folders))):
            try:
                checksum = str(read_info(folder)["checksums"][WEIGHTS])
                if checksum not in self._objects:
                    self._objects[checksum] = folder, ray.put(_stored(read_weights(folder)[1]))
                found[checksum] = self._objects[checksum][1]
            except (CheckpointError, RayError, KeyError) as error:  # a worker meets the same, and says so in its trial
                _log.warning("%s: its weights are not shared: %s", folder, error)
        return found


def _stored(tensors: Mapping[str, Tensor]) -> Stored:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return {
        name: (tensor.flatten().view(torch.uint8).numpy(), str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in plain.items()
    }


def take(objects: Mapping[str, ray.ObjectRef[Stored]], settings: Config) -> None:
    """In a worker: have the weights that a run starts from and learns from in this process, where the store still has them."""
    held: dict[str, dict[str, Tensor]] = {}
    for folder in {settings.teacher.checkpoint, settings.student.checkpoint} - {"", "teacher"}:
        try:
            checksum = str(read_info(folder)["checksums"][WEIGHTS])
            if checksum in objects:
                held[checksum] = _tensors(ray.get(objects[checksum], timeout=SECONDS))
        except (CheckpointError, RayError, KeyError) as error:
            _log.warning("%s: its weights are read from the file: %s", folder, error)
    hold_weights(held)


def _tensors(stored: Stored) -> dict[str, Tensor]:
    """The tensors, on the store's own memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that memory cannot be written to: nobody does
        return {
            name: torch.from_numpy(content).view(getattr(torch, kind)).reshape(shape)
            for name, (content, kind, shape) in stored.items()
        }

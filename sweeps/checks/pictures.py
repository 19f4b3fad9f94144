"""The pictures of one node, looked at by each worker before its first trial: a node may join after the sweep has begun."""

from __future__ import annotations

import socket
from functools import lru_cache

from dmkd.data import Data
from dmkd.errors import SweepError


def check_pictures(data: Data, planned: str) -> None:
    """Refuse other pictures than those that the sweep was planned for (their fingerprint; empty: not known).

    Raises `SweepError`, `DataError` where there are none. A worker looks once at each data set.
    """
    found = _fingerprint(data) if planned else ""
    if found != planned:
        raise SweepError(
            f"data set {data.name} on node {socket.gethostname()} has other pictures (fingerprint {found}) than the sweep was "
            f"planned for ({planned}): copy it again there, and start Ray on it anew"
        )


@lru_cache(maxsize=16)
def _fingerprint(data: Data) -> str:
    from dmkd.data.datasets import load_dataset

    return load_dataset(data).fingerprint

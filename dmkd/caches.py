"""Where dmkd keeps what it can make again: decoded pictures, records, copies of buckets, teachers' features, compiled kernels."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cache_folder() -> Path:
    """`$DMKD_CACHE`, else `dmkd` in the XDG cache folder (`~/.cache`)."""
    folder = os.environ.get("DMKD_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "dmkd")
    return Path(folder).expanduser()


def machine_cache(what: str) -> Path:
    """The place of `what` on this machine: a home that several machines share keeps no order between their writes, and what is
    made for one processor is not for another."""
    return cache_folder() / what / (platform.node() or "local")

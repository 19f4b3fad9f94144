"""Faults are injected into real parts: processes are killed, frozen, cut off; disks filled, clocks moved, servers taken away."""

from __future__ import annotations

from tests.sweeps.conftest import own_state, pictures, teacher
from tests.tracking.conftest import Line, database, line, migrated, server

__all__ = ["Line", "database", "line", "migrated", "own_state", "pictures", "server", "teacher"]

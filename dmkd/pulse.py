"""A count that grows while work goes on: what a watchdog looks at."""

from __future__ import annotations

_count = 0


def beat() -> None:
    """Something was done: a batch was loaded, a step was made."""
    global _count  # noqa: PLW0603 - one count a process is the point
    _count += 1


def count() -> int:
    """How much was done so far in this process."""
    return _count

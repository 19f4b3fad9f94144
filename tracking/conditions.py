"""What runs of an experiment are asked for, in the words of MLflow's search; `tracking.sql` has those of SQL."""

from __future__ import annotations

from typing import NamedTuple

FIELDS = ("run_id", "status", "start_time", "end_time")


class Condition(NamedTuple):
    """Runs whose `field` (of `FIELDS`) is a text, is among some texts, or is a number of milliseconds or more."""

    field: str
    value: str | int | tuple[str, ...]

    def __str__(self) -> str:
        """As a filter of MLflow's `search_runs`."""
        if isinstance(self.value, tuple):
            return f"attributes.{self.field} IN ({', '.join(map(repr, self.value))})"
        return f"attributes.{self.field} {'>=' if isinstance(self.value, int) else '='} {self.value!r}"

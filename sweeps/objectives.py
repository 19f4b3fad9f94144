"""What a search optimises: one validation metric, or that and costs, of which the Pareto front is the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dmkd.errors import SweepError
from dmkd.space import nearest

COSTS = {
    "gflops": "model/gflops",
    "parameters": "model/parameters",
    "dim": "model/dim",
    "memory": "model/memory_mb",
    "latency": "model/latency_ms",
}
"""What `--objective` calls a cost, and the metric that a trial logs: all are minimised."""


@dataclass(frozen=True)
class Objectives:
    """`accuracy` is maximised and decides early stopping; `costs` are minimised."""

    accuracy: str
    costs: tuple[str, ...] = ()

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """For Optuna."""
        costs: list[Literal["maximize", "minimize"]] = ["minimize"] * len(self.costs)
        return ["maximize", *costs]

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics, in the order of the study's values."""
        return self.accuracy, *self.costs

    @property
    def latency(self) -> bool:
        """Whether trials measure how long a picture takes."""
        return COSTS["latency"] in self.costs

    def values(self, result: Mapping[str, Any]) -> tuple[list[float], str]:
        """The metrics of a finished run, or why there are none, in words."""
        values = []
        for name in self.names:
            value = result.get(name)
            if value is None:
                known = ", ".join(sorted(key for key in result if key.startswith(("val", "model/")))) or "no val/..."
                return [], f"{name} was not measured: is it a metric of this method? (a trial reports {known})"
            if not math.isfinite(value):
                return [], f"{name} is {value} after epoch {result.get('epoch')}"
            values.append(float(value))
        return values, ""

    def __str__(self) -> str:
        return " against ".join(self.names)


def read_objectives(given: Sequence[str]) -> Objectives:
    """What was typed; `accuracy` is empty where only costs were. Raises `SweepError` for test metrics and what is unknown."""
    accuracies, costs = [], []
    for name in given:
        if name.startswith("test"):
            raise SweepError(
                f"--objective {name!r}: a search that looks at test classes makes their score worthless; choose by val/..., the "
                "final stage reports test/..."
            )
        cost = COSTS.get(name, name)
        if cost in COSTS.values():
            costs.append(cost)
        elif name.startswith(("val/", "val_asymmetric/")):
            accuracies.append(name)
        else:
            hint = nearest(name, [*COSTS, *COSTS.values()])
            raise SweepError(
                f"--objective {name!r}: wanted a validation metric, as in val/recall_at_1 or "
                f"val_asymmetric/recall_at_1, or a cost: {hint}"
            )
    if len(accuracies) > 1:
        raise SweepError(
            f"--objective {accuracies[1]!r}: wanted one validation metric beside costs, found {', '.join(accuracies)}"
        )
    twice = [name for name in costs if costs.count(name) > 1]
    if twice:
        raise SweepError(f"--objective: {twice[0]} is given twice")
    return Objectives(accuracies[0] if accuracies else "", tuple(costs))

"""A row of a table, what a paper says of it, and the recipe that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dmkd.config import Config
from dmkd.data.datasets import DATASETS
from dmkd.space import override

T = TypeVar("T")
Values = dict[str, Any]
"""Dotted keys of a configuration and what they are set to."""


@dataclass(frozen=True)
class Row:
    """One configuration of a table; the fields are the columns of `tracking.published.configurations`."""

    key: str
    paper: str
    table: str
    dataset: str
    method: str
    base_loss: str | None
    dim: int | None
    backbone: str | None
    teacher_backbone: str | None
    resolution: int | None
    variant: str
    setting: str

    def other(self, method: str, **changes: object) -> str:
        """The key of the row beside this one with another `method` and whatever else `changes` says, in `table`."""
        parts: dict[str, object] = {"paper": self.paper, "table": self.table, "dataset": self.dataset, "method": method}
        parts |= {"base_loss": self.base_loss, "dim": self.dim}
        return "/".join(str(part) for part in (parts | changes).values())


@dataclass(frozen=True)
class Plan:
    """What a paper says of a row: changes of the default configuration, or the reason why there is none."""

    values: Values = field(default_factory=dict)
    teacher: str = ""
    start: str = ""
    selection: str = ""
    notes: tuple[str, ...] = ()
    reason: str = ""
    final: Values = field(default_factory=dict)
    """What holds where all training classes train, and not in a search."""


@dataclass(frozen=True)
class Recipe:
    """How a row is trained."""

    key: str
    config: Config | None
    """Trial 0 of a search around the row: its validation classes are held out. None: `reason` says why there is none."""
    plan: Plan
    dataset: str
    """The data set of the row's numbers."""

    @property
    def reason(self) -> str:
        """Why the row cannot be trained; empty if it can."""
        return self.plan.reason

    @property
    def teacher(self) -> str:
        """The key whose checkpoint teaches (`teacher.checkpoint`), or what the paper took; empty: none is needed."""
        return self.plan.teacher

    @property
    def start(self) -> str:
        """The key whose checkpoint the student starts from (`student.checkpoint`), where that is not its teacher's."""
        return self.plan.start

    @property
    def selection(self) -> str:
        """How the paper chose hyper-parameters and the epoch, and what is done here."""
        return self.plan.selection

    @property
    def notes(self) -> tuple[str, ...]:
        """What the paper leaves open, and what was taken."""
        return self.plan.notes

    @property
    def final(self) -> Config:
        """The training that the printed number is of: all training classes, the planned epochs, one look at the test classes.

        The landmark networks keep their validation, which their data set brings along.
        """
        if self.config is None:
            raise ValueError(f"{self.key}: {self.reason}")
        held_out = {} if self.config.evaluation.landmarks else {"data.validation": 0.0}
        return override(self.config, self.plan.final | {"evaluation.test": True} | held_out)


def data_set(name: str, otherwise: str) -> Values:
    """`data.name`: the data set itself where dmkd knows it, else the general reader (folder, manifest) that can read it."""
    return {"data.name": name if name in DATASETS else otherwise}


def chosen(table: Mapping[str, T], key: str) -> T:
    """`table[key]`; an unknown row of a table is our mistake, and says so."""
    if key not in table:
        raise ValueError(f"no recipe for {key!r}; known are {', '.join(table)}")
    return table[key]

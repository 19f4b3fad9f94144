"""What a configuration's field may carry beside its type: the range to search, the limits, the names or variants it takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmkd.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """An interval to search, both ends included; `log` searches the logarithm; an `int` field is searched in steps of `step`.

    `when=("enabled", True)` makes it conditional: it is searched only where the field beside it has that value.
    """

    low: float
    high: float
    log: bool = False
    step: int | None = None
    when: tuple[str, object] | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ConfigError(f"Range({self.low}, {self.high}, log={self.log}): low must be below high, and positive if log")


@dataclass(frozen=True)
class Choice:
    """A finite set of values to search; `when` as in `Range`."""

    options: tuple[Any, ...]
    when: tuple[str, object] | None = None


@dataclass(frozen=True)
class Limit:
    """What a value must satisfy to be accepted at all: closed (`minimum`, `maximum`) or open (`above`, `below`) ends."""

    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether `value` is finite and inside every end; an open end at infinity is no end."""
        open_low = self.above == -math.inf or value > self.above
        open_high = self.below == math.inf or value < self.below
        return math.isfinite(value) and self.minimum <= value <= self.maximum and open_low and open_high

    def __str__(self) -> str:
        ends = [(">=", self.minimum), ("<=", self.maximum), (">", self.above), ("<", self.below)]
        return " and ".join(f"{sign} {end:g}" for sign, end in ends if math.isfinite(end)) or "a finite number"


@dataclass(frozen=True)
class OneOf:
    """The names that a string field accepts."""

    options: tuple[str, ...]


@dataclass(frozen=True)
class Variants:
    """A field that holds one of several dataclasses, chosen by `name` (or by a `preset`: a ready instance)."""

    classes: Mapping[str, type]
    presets: Mapping[str, Any] = dataclasses.field(default_factory=dict)

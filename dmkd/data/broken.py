"""Pictures that cannot be read: left out by name, counted, and never replaced by another."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from dmkd.errors import DataError

SHOWN = 5
"""Names that a warning shows before it only counts."""


class BrokenPicture(DataError):
    """A picture of a data set that cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        """`path` relative to the data set's root; `reason` names the whole path."""
        super().__init__(reason)
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[BrokenPicture], tuple[str, str]]:
        return BrokenPicture, (self.path, self.reason)


@dataclass(eq=False)
class Broken:
    """What of a data set cannot be read: found when it was loaded, or since. One object for all parts of a data set."""

    reasons: dict[str, str] = field(default_factory=dict)
    """Path relative to the root: reason, which names the whole path."""
    at_load: int = 0
    """How many of them were left out of the listing."""

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, found: Mapping[str, str]) -> list[str]:
        """Take note of pictures met as broken. Returns what to warn of: each of the first few by name, and every hundredth."""
        told = []
        for path, reason in found.items():
            if path in self.reasons:
                continue
            self.reasons[path] = reason
            if len(self) <= SHOWN:
                told.append(f"left out of this run: {reason}")
            elif len(self) % 100 == 0:
                told.append(f"{len(self)} broken pictures are left out of this run; `dmkd prepare` lists them")
        return told


def left_out(name: str, root: object, reasons: Mapping[str, str], *, warn: bool = True) -> Broken:
    """What a listing was loaded without, told in one warning."""
    if reasons and warn:
        rest = f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        first = "; ".join(list(reasons.values())[:SHOWN])
        warnings.warn(
            f"{name}: {len(reasons)} broken pictures are left out: {first}{rest}; `dmkd prepare {name} --root {root}` lists them",
            stacklevel=5,
        )
    return Broken(dict(reasons), len(reasons))

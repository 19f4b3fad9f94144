"""`--gpus-per-trial auto`: trials to a card, chosen once a sweep from what a probe on one of the cluster's cards measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Protocol

from dmkd.config import Config
from dmkd.errors import ConfigError
from dmkd.packing import RESERVE, WORTH, Packing, Probe, choose_packing
from dmkd.space import Choice, Range, override
from sweeps.estimate import gflops
from sweeps.occupant import Seen
from sweeps.space import Searched, Values

MOST = 8
"""Trials on a card at most."""
SIZES = ("student.backbone", "student.resolution", "student.dim", "teacher.resolution", "method.batches.size")
"""Keys that decide what memory a trial takes. Among the others, a method's terms may too: a trial that then runs out of its share
is tried again in smaller chunks (`sweeps.memory`)."""


class Seats(Protocol):
    """A card that takes one more trial at a time (`sweeps.occupant.Card`)."""

    def add(self) -> Sequence[Seen]:
        """What each of all trials on it did, together with the new one."""


@dataclass(frozen=True)
class Measured:
    """What the probe saw, and what was chosen from it."""

    probes: dict[int, Probe]
    card: str
    card_mb: float
    packing: Packing
    note: str = ""
    """Why it ended before the card was full."""

    def to_dict(self) -> dict[str, Any]:
        """For the sweep's record: plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, known: dict[str, Any]) -> Measured:
        """From a record, where numbers of trials became text."""
        probes = {int(count): Probe(**probe) for count, probe in known["probes"].items()}
        return cls(**{**known, "probes": probes, "packing": Packing(**known["packing"])})

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"{count} at once {probe.images_per_second:.0f} images/s, {probe.memory_mb:.0f} MB each"
                for count, probe in self.probes.items()]  # fmt: skip
        chosen = self.packing
        share = f", each at most {chosen.memory_share:.0%} of its memory" if chosen.trials > 1 else ""
        return [
            f"packing, measured on {self.card} ({self.card_mb:.0f} MB): {'; '.join(told)}"
            + (f"; then {self.note}" if self.note else ""),
            f"packing, chosen: {chosen.trials} to a card, {chosen.speedup:.2f} x the images of one by one{share}",
        ]

    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        """For the parent run: [(trials at once, {name: value})]."""
        return [
            (count, {f"packing/{name}": value for name, value in asdict(probe).items()}) for count, probe in self.probes.items()
        ]


def fill(seats: Seats, most: int) -> Measured:
    """Put trials on a card, one more at a time, as long as the memory allows it and it is of use; choose.

    After two further trials in a row that brought less than 5 % no more are tried. Raises what the first trial raises, and
    `ConfigError` where it alone does not leave the reserve.
    """
    probes: dict[int, Probe] = {}
    card, total, note = "", 0.0, ""
    while len(probes) < most and not (note := _full(probes, total)):
        try:
            seen = seats.add()
        except Exception as error:  # what more trials end by is a reason not to have them
            if not probes:
                raise
            note = f"{len(probes) + 1} at once failed ({' '.join(str(error).split())[-300:]})"
            break
        probes[len(probes) + 1] = Probe(sum(one["images_per_second"] for one in seen), _each(seen))
        card, total = seen[0]["card"], seen[0]["card_mb"]
    return Measured(probes, card, total, choose_packing(probes, total), note)


def _each(seen: Sequence[Seen]) -> float:
    """MiB that a trial takes of the card: the most that one held, or its part of all that is taken, if that is more."""
    return max(*(one["peak_mb"] for one in seen), max(one["used_mb"] for one in seen) / len(seen))


def _full(probes: dict[int, Probe], total: float) -> str:
    """Why no further trial is tried; empty if one is."""
    count = len(probes)
    if not count:
        return ""
    need = (count + 1) * max(probe.memory_mb for probe in probes.values())
    if need > (1 - RESERVE) * total:
        return f"{count + 1} would take {need:.0f} MB of {(1 - RESERVE) * total:.0f} that may be had"
    best = choose_packing(probes, total)
    return f"{count - best.trials} more brought less than {WORTH - 1:.0%}" if count - best.trials >= 2 else ""


def costliest(searched: Searched, refused: Callable[[Values], str]) -> Config:
    """The trial of a space that takes most: its largest network, resolution and batch, where `refused` has nothing against it."""
    keys = [key for key in SIZES if key in searched.space and searched.space[key].when is None]
    found = [searched.base]
    for chosen in product(*(_ends(searched.space[key]) for key in keys)):
        values = dict(zip(keys, chosen, strict=True))
        try:
            found += [] if refused(values) else [override(searched.base, values)]
        except ConfigError:  # both ends of a range, of which a batch of whole classes may not be one
            continue
    return max(found, key=cost)


def cost(config: Config) -> tuple[float, int, int]:
    """By what trials are compared: multiply-adds of a batch, the teacher's resolution, the dimension."""
    network = config.student
    return config.method.batches.size * gflops(network), config.teacher.resolution, network.dim


def _ends(entry: Range | Choice) -> tuple[Any, ...]:
    if isinstance(entry, Choice):
        return entry.options
    return (int(entry.low), int(entry.high))


def most_at_once(cpus: int, cards: int, wanted: float) -> int:
    """Trials on a card that are worth a look: each needs a CPU of the card's, and no card is left empty for them."""
    return max(1, min(MOST, cpus, math.ceil(min(wanted, MOST * cards) / cards)))


def share(trials: int) -> float:
    """What Ray is asked for a trial, of so many on a card."""
    return Packing(trials, 1.0, 1.0).gpus_per_trial

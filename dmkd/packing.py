"""How many trials share a GPU: chosen from what a probe measured, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmkd.errors import ConfigError

RESERVE = 0.1
"""Share of a GPU's memory that is left free: contexts of the processes, and fragments."""
WORTH = 1.05
"""A further trial on a GPU is worth it where all together become faster by this factor."""


def memory_share(trials: int) -> float:
    """Share of a GPU's memory that each of so many trials on it may take."""
    return (1 - RESERVE) / trials


@dataclass(frozen=True)
class Probe:
    """What the first steps of so many equal trials on one GPU took."""

    images_per_second: float
    """All trials together."""
    memory_mb: float
    """Peak of the one that took most."""


@dataclass(frozen=True)
class Packing:
    """Trials on a GPU at a time."""

    trials: int
    speedup: float
    """Images a second of all of them, over those of one alone: trials an hour against one by one."""
    memory_share: float
    """Share of the GPU's memory that each may take."""

    @property
    def gpus_per_trial(self) -> float:
        """What Ray is asked for; rounded down, so that `trials` of them fit."""
        return int(1e4 / self.trials) / 1e4


def choose_packing(probes: Mapping[int, Probe], gpu_memory_mb: float) -> Packing:
    """The packing with the most images a second that fits; of nearly equal ones (5 %) the one with fewer trials.

    `probes`: by the number of trials that ran at once. Raises `ConfigError` where one trial alone was not probed, where a
    measurement is not positive, or where not even one fits the memory.
    """
    if 1 not in probes:
        raise ConfigError(f"packing: probed {sorted(probes)} trials at once, wanted one alone among them, to compare with")
    for count, probe in probes.items():
        if not (count >= 1 and 0 < probe.images_per_second < float("inf") and 0 < probe.memory_mb < float("inf")):
            raise ConfigError(f"packing: the probe of {count} trials found {probe}, wanted positive numbers")
    room = (1 - RESERVE) * gpu_memory_mb
    if probes[1].memory_mb > room:
        raise ConfigError(
            f"packing: one trial takes {probes[1].memory_mb:.0f} MB, and the GPU has {room:.0f} of {gpu_memory_mb:.0f}: "
            "lower method.batches.size, or set optim.chunk"
        )
    best = 1
    for count in sorted(probes):
        fits = count * probes[count].memory_mb <= room
        if fits and probes[count].images_per_second >= WORTH * probes[best].images_per_second:
            best = count
    return Packing(best, probes[best].images_per_second / probes[1].images_per_second, memory_share(best))

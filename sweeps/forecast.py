"""The plan in lines for a person: runs, epochs, pictures, hours, disk, and what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from dmkd.data.splits import Parts
from sweeps.estimate import DECODED, GPU_RATE, Load, disk, seconds, work
from sweeps.probe import probe

BUDGET = 120.0
"""Seconds after which no further kind of run is measured: it is scaled from those that were."""
WIDTH = 44


@dataclass
class Forecast:
    """What each kind of run takes, in seconds, and how that is known."""

    seconds: dict[str, float]
    basis: str
    unit: str
    """GPU or CPU."""
    notes: list[str] = field(default_factory=list)


def forecast(loads: Sequence[Load], parts: Callable[[Load], Parts | None], probing: bool, budget: float = BUDGET) -> Forecast:
    """Measure one run of each kind whose data are there, within `budget` seconds; reckon the others."""
    reckoned = {load.label: seconds(load) for load in loads}
    there = {load.label: parts(load) for load in loads} if probing else {}
    if not any(part is not None for part in there.values()):
        how = (
            f"reckoned for one data-centre GPU ({GPU_RATE:.0e} multiply-adds and {DECODED:.0f} decoded crops a second a process)"
        )
        return Forecast(reckoned, how, "GPU")
    measured: dict[str, float] = {}
    kinds: dict[str, float] = {}
    started = time.monotonic()
    for load in loads:
        found, name = there[load.label], kind(load)
        if found is None or (name not in kinds and kinds and time.monotonic() - started > budget):
            continue
        if name not in kinds:
            measured[load.label] = probe(load, found).seconds(load)
            kinds[name] = measured[load.label] / max(1e-9, reckoned[load.label])
        measured[load.label] = kinds[name] * reckoned[load.label]
    return _scaled(reckoned, measured)


def _scaled(reckoned: dict[str, float], measured: dict[str, float]) -> Forecast:
    """The measured, and the others by arithmetic times what the measured took of theirs."""
    factor = sum(measured.values()) / max(1e-9, sum(reckoned[label] for label in measured))
    rest = {label: value * factor for label, value in reckoned.items() if label not in measured}
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    basis = f"measured on {where}" + (f"; {len(rest)} rows scaled from the others" if rest else "")
    return Forecast(measured | rest, basis, "GPU" if torch.cuda.is_available() else "CPU")


def kind(load: Load) -> str:
    """Runs of one kind take the same time a step: equal networks, method, batches and views."""
    config = load.config
    student = replace(config.student, checkpoint="", weights="none")
    place = replace(config.data, validation=0.0, folds=0, fold=0, split_seed=0, noise_seed=0)
    optim = (config.optim.chunk, config.optim.accumulate, config.optim.precision, bool(config.optim.epochs))
    return str(
        (student, load.teacher, config.loss, config.method.label, config.method.batches, config.method.views, place, optim)
    )


def lines(loads: Sequence[Load], found: Forecast, at_once: int = 1) -> list[str]:
    """A line a kind of run, then hours and disk."""
    told = [f"  {'row':{WIDTH}} {'runs':>4} {'epochs':>6} {'steps':>9} {'pictures':>9} {found.unit + '-hours each':>15}"]
    for load in loads:
        done, label = work(load), load.label if len(load.label) <= WIDTH else load.label[: WIDTH - 1] + "…"
        each = found.seconds[load.label] / 3600
        epochs = load.config.optim.epochs
        told.append(f"  {label:{WIDTH}} {load.runs:4d} {epochs:6d} {done.steps:9,d} {_count(done.images):>9} {_hours(each):>15}")
    hours = sum(load.runs * found.seconds[load.label] for load in loads) / 3600
    runs = sum(load.runs for load in loads)
    need = disk(loads, at_once)
    told.append(f"  in all: {runs} runs, {_hours(hours)} {found.unit}-hours ({found.basis})")
    space = f"{_size(need['checkpoints'])} of checkpoints (storage and tracker), {_size(need['states'])} of states while training"
    stored = f", {_size(need['features'])} of stored teacher features" if need["features"] else ""
    told.append(f"  disk: {space}{stored}")
    told.append(
        "  pictures: decoded in memory up to $DMKD_PICTURE_CACHE_MB, a larger set in $DMKD_CACHE/decoded ($DMKD_DECODED_GB)"
    )
    return told + [f"  note: {note}" for note in found.notes]


def missing(what: str, command: str = "") -> str:
    """A line for something that has to be there first, and what makes it."""
    return f"  missing: {what}" + (f": {command}" if command else "")


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 20 else f"{hours:.2g}"


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _size(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"

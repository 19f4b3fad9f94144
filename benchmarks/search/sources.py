"""Where the known points of a warm start come from: earlier sweeps of another method, with fewer epochs, on other pictures."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.grid import CURVES, EPOCHS, GRIDS, TONES
from benchmarks.search.landscape import Landscape, curves, space
from dmkd.space import Choice, Range
from sweeps.space import Values

SOURCE = 20
"""Trials of the earlier sweep that a warm start takes its points from."""
NOISE = 0.0136
"""Deviation of the final score between seeds (`benchmarks.search.report.noise`)."""


def warm_points(seed: int, count: int = 5) -> list[Values]:
    """The best of an earlier random search over S2SD, as far as OBD-SD's space has its values."""
    target = space("obd_sd")
    best = _best_of("s2sd", CURVES, seed, count)
    return [{key: value for key, value in point.items() if _holds(target[key], value)} for point in best]


def toned_points(seed: int, count: int = 5) -> list[Values]:
    """The best of an earlier random search of the same method on another data set (`benchmarks.search.tones`).

    An interpolated landscape has its peaks at the recorded levels, where a search at random never is: each point is moved.
    """
    draw = np.random.default_rng(3000 + seed)
    return [_moved(point, draw) for point in _best_of("obd_sd", TONES, seed, count)]


def _moved(point: Values, draw: np.random.Generator) -> Values:
    """To anywhere nearer (in the logarithm) to its own levels than to their neighbours; resolutions stay."""
    found = dict(point)
    for key, levels in GRIDS["obd_sd"].items():
        if key != "student.resolution":
            places = np.log(levels)
            edges = [places[0], *((places[1:] + places[:-1]) / 2), places[-1]]
            own = levels.index(point[key])
            found[key] = float(math.exp(draw.uniform(edges[own], edges[own + 1])))
    return found


def _best_of(method: str, path: Path, seed: int, count: int) -> list[Values]:
    """The best by final score of `SOURCE` configurations drawn from the recorded ones."""
    source = curves(method, path=path)
    drawn = random.Random(1000 + seed).sample(sorted(source), min(SOURCE, len(source)))
    best = sorted(drawn, key=lambda levels: -source[levels][-1])[:count]
    return [dict(zip(GRIDS[method], levels, strict=True)) for levels in best]


def half_points(seed: int, count: int = 5) -> list[Values]:
    """The best of an earlier random search of the same method on the same data, by noisy scores after half of the epochs.

    The earlier sweep would have had other seeds: the noise of a run, as measured between seeds, is added to each of its scores.
    """
    known, searched = Landscape("obd_sd", curves("obd_sd")), space("obd_sd")
    draw = np.random.default_rng(2000 + seed)
    points = [{key: _drawn(entry, draw) for key, entry in searched.items()} for _ in range(SOURCE)]
    scores = [known(point)[EPOCHS // 2 - 1] + draw.normal(0, NOISE) for point in points]
    return [points[place] for place in np.argsort(scores)[::-1][:count]]


def _drawn(entry: Range | Choice, draw: np.random.Generator) -> Any:
    """At random, as Optuna's random sampler does."""
    if isinstance(entry, Choice):
        return entry.options[int(draw.integers(len(entry.options)))]
    return float(math.exp(draw.uniform(math.log(entry.low), math.log(entry.high))))


SOURCES: dict[str, Callable[[int], list[Values]]] = {"s2sd": warm_points, "half": half_points, "tones": toned_points}
"""Another method on the same pictures; the same method on them, with half of the epochs and other seeds; on other pictures."""


def _holds(entry: Range | Choice, value: Any) -> bool:
    return value in entry.options if isinstance(entry, Choice) else entry.low <= value <= entry.high

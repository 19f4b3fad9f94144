"""The recorded curves as a landscape: the curve of any point of the searched space."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from benchmarks.search.grid import CURVES, EPOCHS, GRIDS, read
from dmkd.space import Choice, Range
from sweeps.space import Values

METRIC = "val/map"
"""Mean average precision: with two pictures a class it moves in finer steps than recall at 1."""

Curves = dict[tuple[Any, ...], list[float]]


def curves(method: str, metric: str = METRIC, seed: int = 0, path: Path = CURVES) -> Curves:
    """Level values in the grid's order -> the score after each epoch."""
    keys = list(GRIDS[method])
    found = [record for record in read(path).values() if record["method"] == method and record["seed"] == seed]
    return {tuple(record["values"][key] for key in keys): record[metric] for record in found if len(record[metric]) == EPOCHS}


def space(method: str) -> dict[str, Range | Choice]:
    """The grid as a continuous space, from its lowest to its highest levels; resolutions are a choice."""
    return {
        key: Choice(levels) if key == "student.resolution" else Range(levels[0], levels[-1], log=True)
        for key, levels in GRIDS[method].items()
    }


class Landscape:
    """The curve of any point of the space: a recorded one at the grid's levels, between them interpolated linearly in the
    logarithm of each key (resolutions are not)."""

    def __init__(self, method: str, known: Curves) -> None:
        self._keys = [key for key in GRIDS[method] if key != "student.resolution"]
        levels = {key: GRIDS[method][key] for key in self._keys}
        place = list(GRIDS[method]).index("student.resolution")
        self._at: dict[int, RegularGridInterpolator] = {}
        for resolution in GRIDS[method]["student.resolution"]:
            table = np.array(
                [known[(*point[:place], resolution, *point[place:])] for point in product(*levels.values())], dtype=float
            ).reshape(*map(len, levels.values()), EPOCHS)
            self._at[resolution] = RegularGridInterpolator([np.log(found) for found in levels.values()], table)

    def __call__(self, values: Values) -> list[float]:
        """The score after each epoch."""
        point = [math.log(values[key]) for key in self._keys]
        inside = [
            min(max(one, axis[0]), axis[-1]) for one, axis in zip(point, self._at[values["student.resolution"]].grid, strict=True)
        ]
        scores: list[float] = self._at[values["student.resolution"]](inside)[0].tolist()
        return scores

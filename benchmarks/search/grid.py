"""The recorded grid: which configurations, of which base, and how a curve is written down."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

EPOCHS = 16
FOLDER = Path(__file__).parent
CURVES = FOLDER / "curves.jsonl"
"""The recorded curves that are shipped; `python -m benchmarks.search.record` made them."""

TONES = FOLDER / "curves_tones.jsonl"
"""Some curves of OBD-SD's grid on another data set (`benchmarks.search.tones`): where a warm start may come from."""
TONED = 40

Levels = dict[str, tuple[Any, ...]]

RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
GRIDS: dict[str, Levels] = {
    "obd_sd": {
        "optim.lr": RATES,
        "method.weight": (10.0, 75.0, 500.0, 2000.0),
        "method.temperature": (0.2, 0.6, 2.0),
        "method.diffusion.omega": (0.3, 0.9),
        "student.resolution": (32, 48, 64),
    },
    "s2sd": {
        "optim.lr": RATES,
        "method.weight": (1.0, 10.0, 100.0, 1000.0),
        "method.temperature": (0.2, 1.0),
        "student.resolution": (32, 64),
    },
}
"""360 configurations of OBD-SD, 80 of S2SD."""

STEPS = 6
"""Batches in an epoch: of 1,516 training pictures it sees 672."""
BASE: dict[str, Any] = {
    "data": {"name": "signs", "crop_ratio": 1.0, "render_size": 64},
    "student": {
        "backbone": "timm/tf_efficientnet_lite0",
        "dim": 64,
        "resolution": 48,
        "frozen": ["conv_stem", "bn1", "blocks", "conv_head", "bn2"],
    },
    "loss": {"name": "multi_similarity"},
    "optim": {"epochs": EPOCHS},
    "evaluation": {"nmi": False, "k": [1]},
}
BATCHES = {"size": 112, "images_per_class": 2, "replacement": False, "iterations": STEPS}
METHODS: dict[str, dict[str, Any]] = {
    "obd_sd": {"diffusion": {"enabled": True}},
    # The feature term starts after a third of the plan, as its 1000 steps do in a plan of 3000.
    "s2sd": {"dims": [256, 512], "features": True, "feature_delay": EPOCHS * STEPS // 3},
}
REPEATED = 20
"""Configurations of OBD-SD that are trained with two more seeds: the noise."""


@dataclass(frozen=True)
class Point:
    """One curve to record."""

    method: str
    values: tuple[tuple[str, Any], ...]
    seed: int = 0
    tones: bool = False
    """On the other data set, whose 50 training classes fill smaller batches."""

    @property
    def key(self) -> str:
        """Names the curve."""
        return f"{self.method}|{json.dumps(dict(self.values))}|{self.seed}"

    def config(self) -> Any:
        """The `Config` of the run."""
        from dmkd.config import from_dict
        from dmkd.space import override

        method = {"name": self.method, "batches": BATCHES, "views": {"augmentation": "none"}} | METHODS[self.method]
        values = dict(self.values)
        if self.method == "s2sd":
            values["method.feature_weight"] = values["method.weight"]
        plain = from_dict(BASE | {"method": method})
        return override(plain, values | {"seed": self.seed} | (_toned() if self.tones else {}))


def _toned() -> dict[str, Any]:
    from benchmarks.search.tones import root

    return {"data.name": "folder", "data.root": str(root()), "method.batches.size": 80}


def toned_points() -> list[Point]:
    """The first `TONED` of OBD-SD's shuffled configurations, on the other data set: an earlier random search."""
    return [replace(point, tones=True) for point in points()[:TONED]]


def points() -> list[Point]:
    """Every curve, in a shuffled order in which the repeated ones come early enough to be there when time runs short."""
    draw = random.Random(0)
    made: dict[str, list[Point]] = {}
    for method, levels in GRIDS.items():
        made[method] = [Point(method, tuple(zip(levels, values, strict=True))) for values in product(*levels.values())]
        draw.shuffle(made[method])
    noise = [Point(p.method, p.values, seed) for p in made["obd_sd"][:REPEATED] for seed in (1, 2)]
    return [*made["obd_sd"], *made["s2sd"], *noise]


def read(path: Path = CURVES) -> dict[str, dict[str, Any]]:
    """Recorded curves by key; a last line that was cut is left out."""
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["key"]] = record
    return found

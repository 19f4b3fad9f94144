"""Old and new queries in old and new galleries: may a new network search the gallery that is there already?

Backward compatibility is measured, not assumed: each network sees the pictures through its own preprocessing, and every pair of
them is searched. A pair of different dimensions cannot be, and has no number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from dmkd.checkpoint import load_model, read_info
from dmkd.data import LANDMARKS
from dmkd.errors import ConfigError
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.protocol import Outcomes
from dmkd.run import evaluation_config, measure_of
from dmkd.scoring import best_device

OLD, NEW = "old", "new"


@dataclass(frozen=True)
class Pair:
    """A deployed, or a candidate's, pair of networks, as checkpoint folders."""

    queries: Path
    gallery: Path
    """The same folder where the student embeds its own gallery, the teacher's where it was made to query that."""

    @property
    def role(self) -> str:
        """Whose quality of pictures the gallery sees."""
        return "student" if self.queries == self.gallery else "teacher"


@dataclass(frozen=True)
class Cell:
    """One search of the matrix."""

    queries: str
    gallery: str
    scores: Mapping[str, float]
    """By metric; empty where the two do not fit."""
    outcomes: Outcomes | None = None
    reason: str = ""
    """Why there is no score."""


class Compatibility:
    """The searches of a candidate and of what is deployed, on one part of a data set; each network embeds it once.

    `changes` override `data.*` and `evaluation.*` of the candidate's own configuration. Counts no test look.
    Raises `CheckpointError`, `ConfigError`, `DataError` where networks or pictures cannot be read.
    """

    def __init__(self, new: Path, changes: Mapping[str, Any] | None = None, split: str = "test") -> None:
        config = evaluation_config(new, changes)
        if config.data.name in LANDMARKS:
            raise ConfigError(f"{config.data.name}: a landmark test set has no one gallery; give --dataset with classes")
        self.split, self._data = split, config.data
        self._device = best_device()
        self._evaluation = config.evaluation
        self._made: dict[Any, Tensor] = {}

    @cached_property
    def _measure(self) -> Measure:
        return measure_of(self._data, self._evaluation, self.split, self._device)

    def search(self, queries: Path, gallery: Path, names: tuple[str, str] = (NEW, OLD), role: str = "student") -> Cell:
        """The pictures of the part as queries by one network, in a gallery of the same pictures by another.

        `role`: whose quality of pictures the gallery sees, "teacher" for that of a pretrained teacher (see `Data.quality`).
        """
        reason = misfit(read_info(queries), read_info(gallery))
        if reason:
            return Cell(*names, {}, reason=reason)
        scores, outcomes = self._measure.compare(self._embedded(queries, "student"), self._embedded(gallery, role))
        return Cell(*names, scores, outcomes)

    def matrix(self, old: Pair, new: Pair) -> list[Cell]:
        """Old and new queries, each in the old and in the new gallery."""
        pairs = {OLD: old, NEW: new}
        return [
            self.search(pairs[queries].queries, pairs[gallery].gallery, (queries, gallery), pairs[gallery].role)
            for queries in pairs
            for gallery in pairs
        ]

    def scores(self, old: Pair, new: Pair) -> dict[str, float]:
        """`test/recall_at_1` of the new network alone, `test_asymmetric/...` of it in the old gallery, and of the whole matrix
        `test/old_queries_new_gallery/recall_at_1` and so on. A pair that does not fit has no score."""
        found = {f"{self.split}/{key}": value for key, value in self.search(new.queries, new.queries).scores.items()}
        for cell in self.matrix(old, new):
            name = f"{self.split}/{cell.queries}_queries_{cell.gallery}_gallery"
            names = [name, f"{self.split}_asymmetric"] if (cell.queries, cell.gallery) == (NEW, OLD) else [name]
            found |= {f"{one}/{key}": value for one in names for key, value in cell.scores.items()}
        return found

    def _embedded(self, folder: Path, role: str) -> Tensor:
        info = read_info(folder)
        key = (info["embedding_space"], info["resolution"], self._data.quality(role))
        if key not in self._made:
            network, _ = load_model(folder)
            own = replace(self._data, crop_ratio=float(info["preprocessing"]["crop_ratio"]))
            side = Side(network.to(self._device).eval(), int(info["resolution"]), role)
            self._made[key] = replace(self._measure, data=own).embed(side)
        return self._made[key]


def misfit(queries: Mapping[str, Any], gallery: Mapping[str, Any]) -> str:
    """Why embeddings of one model.json cannot be compared with those of another; empty where they can."""
    for key, what in {"dim": "numbers", "unit_length": "unit length", "compare_by": "comparison"}.items():
        asked, shown = queries["embedding"][key], gallery["embedding"][key]
        if asked != shown:
            return f"{what}: {asked} in the queries, {shown} in the gallery"
    return ""


def stamps(info: Mapping[str, Any]) -> dict[str, str]:
    """What every version is stamped with, from its model.json: embedding space, dimension, normalisation, preprocessing."""
    embedding = info["embedding"]
    return {
        "dmkd.embedding_space": str(info["embedding_space"]),
        "dmkd.dim": str(embedding["dim"]),
        "dmkd.normalisation": "unit length" if embedding["unit_length"] else "none",
        "dmkd.compare_by": str(embedding["compare_by"]),
        "dmkd.resolution": str(info["resolution"]),
        "dmkd.preprocessing": json.dumps(info["preprocessing"]),
        "dmkd.gallery": str(info["extra"].get("gallery", "student")),
    }

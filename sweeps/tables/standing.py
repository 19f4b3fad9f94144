"""Whether a measured row may be held against its printed one: what was trained otherwise than in the paper."""

from __future__ import annotations

from typing import Any

from dmkd.config import Config
from dmkd.data.datasets import DATASETS
from dmkd.data.splits import Parts
from dmkd.space import flatten
from sweeps.papers import recipe
from sweeps.papers.printed import stated
from sweeps.tables.entries import Entry

NEUTRAL = (
    "seed",
    "data.root",
    "data.workers",
    "evaluation.batch_size",
    "evaluation.every",
    "evaluation.gallery_resolutions",
    "evaluation.landmark_root",
    "evaluation.metrics",
    "evaluation.nmi",
    "evaluation.query_resolutions",
    "evaluation.train",
    "evaluation.whitening_root",
    "optim.channels_last",
    "optim.chunk",
    "optim.compile",
    "optim.precision",
    "student.checkpoint",
    "teacher.checkpoint",
    "teacher.features",
)
"""Fields in which a run may differ from the paper's without being another experiment."""
SHOWN = 4
"""Differences that are told one by one."""

SPLIT = "; here: "
"""Divides a recipe's selection rule into the paper's and ours."""


def tags(entry: Entry, parts: Parts | None) -> dict[str, str]:
    """The tags by which a run is held against its printed rows: their keys, both selection rules, and what is not comparable."""
    if not entry.keys:
        return {}
    published, ours = rules(entry)
    return {
        "dmkd.published": " ".join(entry.keys),
        "dmkd.published_rule": published,
        "dmkd.rule": ours,
        "dmkd.not_comparable": not_comparable(entry, parts),
    }


def rules(entry: Entry) -> tuple[str, str]:
    """How the paper chose what it printed, and how this was chosen."""
    published, _, ours = recipe(entry.source).selection.partition(SPLIT)
    own = "best epoch by validation" if entry.config.data.validation else "the last epoch, test classes seen once"
    return published.removeprefix("published: "), ours or own


def not_comparable(entry: Entry, parts: Parts | None) -> str:
    """Why the numbers may not be compared, in words; empty where they may."""
    paper = stated(recipe(entry.source), validation=False)
    differences = [f"{key}={_told(ours)} ({_told(theirs)})" for key, ours, theirs in _differing(entry.config, paper)]
    shown = differences[:SHOWN] + ([f"{len(differences) - SHOWN} settings more"] if len(differences) > SHOWN else [])
    small = [_other_data(entry.config, parts)] if parts is not None else []
    return "; ".join(filter(None, [*small, *shown]))


def _differing(ours: Config, paper: Config) -> list[tuple[str, Any, Any]]:
    mine, theirs = flatten(ours), flatten(paper)
    keys = [key for key in mine | theirs if key not in NEUTRAL and mine.get(key) != theirs.get(key)]
    return [(key, mine.get(key), theirs.get(key)) for key in keys]


def _other_data(config: Config, parts: Parts) -> str:
    """The data set's size where it is not the known one (a half whose labels are withheld is left out of no count here)."""
    known = DATASETS[config.data.name].images
    if known is None or config.data.use != "all":
        return ""
    images = sum(len(part) for part in (parts.train, parts.val, parts.test) if part is not None)
    return f"{images} pictures of {known}" if images != known else ""


def _told(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

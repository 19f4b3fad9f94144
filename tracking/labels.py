"""What a row of the board is called: its method and what tells it from the others. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracking.candidates import Candidate, number

if TYPE_CHECKING:
    import polars as pl

NOT_IN_LABEL = (
    "params.seed",
    "params.data.",
    "params.evaluation.",
    "params.student.dim",
    "params.student.resolution",
    "params.teacher.checkpoint",
    "params.method.name",
)
"""What repetitions share or not without being another configuration, and what has a column of its own."""
WORDS = {"params.student.checkpoint": "from "}
"""Params that a label names by a word: "yu/absolute from teacher"."""


def labels(found: list[Candidate], runs: pl.DataFrame, most: int = 4) -> list[str]:
    """The method and, of the params that differ, those that each has: "s2sd temperature=0.5".

    A param of the method is compared with the same method's other candidates, any other param with all. `runs` is the frame that
    the candidates were found in.
    """
    compared = [candidate for candidate in found if not candidate.reference]
    params = runs.select(name for name in runs.columns if name.startswith("params.") and not name.startswith(NOT_IN_LABEL))
    general = _varying(compared, params, own=False)
    special = {
        method: _varying([one for one in compared if one.method == method], params, own=True)
        for method in {candidate.method for candidate in found}
    }
    chosen = sorted({*general, *(key for keys in special.values() for key in keys)})
    firsts = params.select(chosen)[[candidate.at for candidate in found]].to_dicts() if chosen else [{} for _ in found]
    return [
        _label(candidate, first, [*special[candidate.method], *general][:most])
        for candidate, first in zip(found, firsts, strict=True)
    ]


def _varying(found: list[Candidate], params: pl.DataFrame, *, own: bool) -> list[str]:
    """The params that have several values among the candidates: the method's own, or all others."""
    import polars as pl

    keys = sorted(name for name in params.columns if name.startswith("params.method.") == own)
    if len(found) < 2 or not keys:
        return []
    firsts = params.select(keys)[[candidate.at for candidate in found]]
    counts = firsts.select(pl.all().drop_nulls().n_unique())
    return [key for key, count in zip(keys, counts.row(0), strict=True) if count > 1]


def _label(candidate: Candidate, first: dict[str, Any], keys: list[str]) -> str:
    if candidate.reference:
        return candidate.reference
    stated = candidate.tags("published", "label")
    if stated["published"] and stated["label"] and not stated["label"].startswith("trial "):
        return str(stated["label"])
    words = {key: WORDS.get(key, f"{key.rsplit('.', 1)[-1]}=") for key in keys}
    given = [f"{word}{_short(first[key])}" for key, word in words.items() if first.get(key) not in (None, "")]
    return " ".join([candidate.method, *given])


def _short(text: str) -> str:
    value = number(text)
    text = text.rstrip("/").rsplit("/", 1)[-1]
    return text if value is None or len(text) <= 5 else f"{value:.3g}"

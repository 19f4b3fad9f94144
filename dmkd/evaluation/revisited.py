"""Revisited Oxford and Paris: mAP and mP@K under the easy, medium and hard protocols (Radenovic et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmkd.errors import DataError, ShapeError
from dmkd.evaluation.arrays import Array, like, to_numpy
from dmkd.evaluation.host_ranks import ranks_in_row
from dmkd.evaluation.ranks import Ranks, collect
from dmkd.evaluation.retrieval import check_choice, check_depths

PROTOCOLS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Of each protocol, which lists are positives and which leave the ranking."""


def revisited_map(
    similarity: Array, easy: Array, hard: Array, junk: Array, *, mode: str = "medium", k: Sequence[int] = (1, 5, 10)
) -> dict[str, Any]:
    """`{"map": float, "ap": [Q], "mp": {k: float}}` with the trapezoidal AP; queries without positives are skipped (AP is NaN).

    similarity [Q, G]; easy, hard, junk [Q, G] bool. mode: easy (positives easy; junk and hard left out), medium (easy and hard;
    junk left out), hard (hard; junk and easy left out). mP@K divides by min(K, rank of the last positive). "ap" is of the kind
    that `similarity` is. Of equal similarities the earlier gallery position comes first.
    Raises `ShapeError` for masks of another shape, `DataError` for NaN or when no query has a positive, `ConfigError` for a mode.
    """
    check_depths(k)
    ranks = revisited_ranks(similarity, easy, hard, junk, mode=mode)
    ap = np.full(len(similarity), np.nan)
    ap[ranks.query] = ranks.average_precision("trapezoidal")
    precision = {depth: float(ranks.precision(depth).mean()) for depth in k}
    return {"map": float(ap[ranks.query].mean()), "ap": like(ap, similarity), "mp": precision}


def revisited_ranks(similarity: Array, easy: Array, hard: Array, junk: Array, *, mode: str) -> Ranks:
    """Ranks of every query's positives under a protocol; arguments, skipped queries and errors as in `revisited_map`."""
    check_choice("mode", mode, PROTOCOLS)
    scores = to_numpy(similarity)
    masks = {name: _mask(name, mask, scores) for name, mask in (("easy", easy), ("hard", hard), ("junk", junk))}
    if not np.isfinite(scores).all():
        raise DataError("similarity holds NaN or infinity: the network that embedded these images has diverged")
    positive, left_out = (np.logical_or.reduce([masks[name] for name in names]) for names in PROTOCOLS[mode])
    positive &= ~left_out
    queries = np.flatnonzero(positive.any(axis=1)).tolist()
    if not queries:
        raise DataError(f"no query has a positive under the protocol {mode!r}")
    return collect([(q, ranks_in_row(np.where(left_out[q], -np.inf, scores[q]), np.flatnonzero(positive[q]))) for q in queries])


def _mask(name: str, mask: Array, scores: NDArray[Any]) -> NDArray[np.bool_]:
    array = to_numpy(mask)
    if array.shape != scores.shape or scores.ndim != 2:
        raise ShapeError(f"{name}: found shape {list(array.shape)}, wanted that of similarity [Q, G], {list(scores.shape)}")
    return array.astype(bool)

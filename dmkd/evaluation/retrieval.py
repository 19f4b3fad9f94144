"""Retrieval metrics, exact over the whole gallery: Recall@K, mP@K, mAP, mAP@R, R-precision.

Each takes queries [Q, D], gallery [G, D] and their labels [Q], [G] as NumPy arrays or torch tensors, compares by dot product of
the vectors as given, and averages over the queries that have a positive. Junk is what shares the query's id (`query_ids`,
`gallery_ids`: itself, or the teacher's copy of it) or its group (`query_groups`, `gallery_groups`: the strict protocol). Rules
for junk, ties and skipped queries: `dmkd.evaluation.search`. All raise `ShapeError` for arrays that do not fit together,
`DataError` for vectors that are not finite or when no query has a positive, `ConfigError` for a bad option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from dmkd.errors import ConfigError, DataError
from dmkd.evaluation.arrays import Array, like
from dmkd.evaluation.ranks import AP_TERMS, Ranks
from dmkd.evaluation.search import Junk, positive_ranks
from dmkd.space import nearest

R_EXTRA = {"musgrave": 0, "released": 1}
"""How many items R counts beside the positives."""


def recall_at_k(
    queries: Array, gallery: Array, query_labels: Array, gallery_labels: Array, *, k: Sequence[int] = (1,), **ids: Unpack[Junk]
) -> dict[int, float]:
    """Recall@K: share of queries with a positive among their K nearest, for each K of `k`."""
    check_depths(k)
    _, hit = outcomes(positive_ranks(queries, gallery, query_labels, gallery_labels, first=True, **ids), Ranks.first)
    return {depth: float((hit <= depth).mean()) for depth in k}


def mean_precision_at_k(
    queries: Array,
    gallery: Array,
    query_labels: Array,
    gallery_labels: Array,
    *,
    k: Sequence[int] = (1, 5, 10),
    **ids: Unpack[Junk],
) -> dict[int, float]:
    """mP@K of the landmark tables: positives among the K nearest over min(K, rank of the last positive), for each K of `k`."""
    check_depths(k)
    blocks = positive_ranks(queries, gallery, query_labels, gallery_labels, **ids)
    _, precision = outcomes(blocks, lambda ranks: np.stack([ranks.precision(depth) for depth in k], axis=1))
    return {depth: float(mean) for depth, mean in zip(k, precision.mean(axis=0), strict=True)}


def mean_average_precision(
    queries: Array,
    gallery: Array,
    query_labels: Array,
    gallery_labels: Array,
    *,
    form: str = "step",
    at: int | None = None,
    per_query: bool = False,
    **ids: Unpack[Junk],
) -> float | Array:
    """mAP over all ranks; over the first `at` alone if given, divided by min(positives, at).

    form: "step", the mean of the precision at each positive (fine-grained sets), or "trapezoidal", Oxford's area under the
    precision-recall curve: each positive adds the mean of the precision before it and at it (AML, RAML, the landmark tables), or
    "released": the step form, divided by the size of the class with the query in it (S2SD's and OBD-SD's code, at=1000).
    per_query: return the AP of each query instead, [Q], of the kind given (array or tensor), NaN where a query is skipped.
    """
    check_choice("form", form, AP_TERMS)
    check_depths([at] if at is not None else [1])
    blocks = positive_ranks(queries, gallery, query_labels, gallery_labels, **ids)
    query, ap = outcomes(blocks, lambda ranks: ranks.average_precision(form, at))
    if not per_query:
        return float(ap.mean())
    every = np.full(len(queries), np.nan)
    every[query] = ap
    return like(every, queries)


def mean_average_precision_at_r(
    queries: Array, gallery: Array, query_labels: Array, gallery_labels: Array, *, form: str = "musgrave", **ids: Unpack[Junk]
) -> float:
    """mAP@R: precision at each positive among the first R, summed, over R (Musgrave et al. 2020).

    form: "musgrave", R = the query's positives; "released", R counts the query too, as in the code of S2SD and OBD-SD (there the
    maximum is (n - 1) / n for a class of n).
    """
    check_choice("form", form, R_EXTRA)
    blocks = positive_ranks(queries, gallery, query_labels, gallery_labels, **ids)
    _, ap = outcomes(blocks, lambda ranks: ranks.average_precision_at_r(R_EXTRA[form]))
    return float(ap.mean())


def r_precision(queries: Array, gallery: Array, query_labels: Array, gallery_labels: Array, **ids: Unpack[Junk]) -> float:
    """R-precision: share of positives among the first R items, R = the query's positives (Musgrave et al. 2020)."""
    _, share = outcomes(positive_ranks(queries, gallery, query_labels, gallery_labels, **ids), Ranks.r_precision)
    return float(share.mean())


def outcomes(blocks: Iterable[Ranks], *measures: Callable[[Ranks], NDArray[Any]]) -> list[NDArray[Any]]:
    """Positions of the queries that have a positive, and each measure of them; blocks are let go one by one.

    Raises `DataError` when there is no such query.
    """
    rows = [(block.query, *(measure(block) for measure in measures)) for block in blocks if len(block.query)]
    if not rows:
        raise DataError("no query has a positive in the gallery: each needs another image of its class that is not junk")
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise `ConfigError`, with the nearest known name, unless `value` is known."""
    if value not in list(known):
        raise ConfigError(f"{name}: unknown {value!r}: {nearest(value, known)}")


def check_depths(k: Sequence[int]) -> None:
    """Raise `ConfigError` unless every depth is a whole number of at least 1, and there is one."""
    given = k if hasattr(k, "__len__") else ()
    if not len(given) or any(isinstance(depth, bool) or not isinstance(depth, (int, np.integer)) or depth < 1 for depth in given):
        raise ConfigError(f"k: found {k!r}, wanted whole numbers of at least 1")

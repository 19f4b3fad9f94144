"""The engine of every retrieval metric: exact ranks of the positives, a block of queries at a time.

A block of queries meets the whole gallery (dot product of the vectors as given); what is kept of the block is the rank of each
positive, found by counting what lies above it, so neither the N x N matrix nor a sorted list of it exists at any time. On the
host, large sets whose queries are the gallery take half of the product (`dmkd.evaluation.mutual`), to the same ranks.

- Junk: a gallery item with the query's id (itself, or the teacher's copy of it), and, under the strict protocol, one of the
  query's group. It leaves the ranking: it is no positive, and counts for no rank.
- Ties: of equal similarities the earlier gallery position comes first, as in `np.argsort(-similarity, kind="stable")`.
- A query that has no positive after junk is skipped by every metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmkd.errors import DataError, ShapeError
from dmkd.evaluation.arrays import Array, Integers, keys, vectors
from dmkd.evaluation.blocks import Block
from dmkd.evaluation.mutual import Mutual
from dmkd.evaluation.products import ask_blocks
from dmkd.evaluation.ranks import Ranks
from dmkd.evaluation.relations import Matches, Relations


class Junk(TypedDict, total=False):
    """What names the gallery items that leave a query's ranking; each pair is given whole or not at all."""

    query_ids: Array | None
    gallery_ids: Array | None
    query_groups: Array | None
    gallery_groups: Array | None


def positive_ranks(
    queries: Array,
    gallery: Array,
    query_labels: Array,
    gallery_labels: Array,
    *,
    first: bool = False,
    device: torch.device | None = None,
    **junk: Unpack[Junk],
) -> Iterator[Ranks]:
    """`Ranks` of one block of queries after the other; `first` ranks only the best positive of a query (and counts one).

    queries [Q, D], gallery [G, D]: float64 is kept, anything else becomes float32. Labels, ids and groups: [Q] and [G], of any
    sortable type. `device`: where similarities are computed; None: where the queries lie. Raises `ShapeError` where the arrays do
    not fit together, `DataError` for values that are not finite.
    """
    q, g = _same_space(queries, gallery)

    mates = _matches(query_labels, gallery_labels, len(q), len(g), "labels")
    left_out = [
        _matches(left, right, len(q), len(g), name)
        for name in ("ids", "groups")
        for left, right in [(junk.get(f"query_{name}"), junk.get(f"gallery_{name}"))]
        if left is not None or right is not None
    ]
    place = device or (queries.device if isinstance(queries, Tensor) else torch.device("cpu"))
    relations = Relations(mates, left_out)
    if queries is gallery and place.type == "cpu" and q.dtype == np.float32:
        mutual = Mutual(q, relations, first)
        if mutual.pays():
            return mutual.ranks()
    return ask_blocks(q, g, place, lambda start, block: _rank_block(block, start, relations, first))


def _matches(left: Any, right: Any, queries: int, gallery: int, name: str) -> Matches:
    if left is None or right is None:
        raise ShapeError(f"only one of query_{name} and gallery_{name} is given: give both, or neither")
    return Matches(keys(left, queries, f"query_{name}"), keys(right, gallery, f"gallery_{name}"))


def _same_space(queries: Array, gallery: Array) -> tuple[NDArray[Any], NDArray[Any]]:
    q, g = vectors(queries, "queries"), vectors(gallery, "gallery")
    if q.shape[1] != g.shape[1]:
        raise ShapeError(f"queries have {q.shape[1]} dimensions, the gallery {g.shape[1]}: to be compared they need one space")
    dtype = np.result_type(q, g)
    lengths = [float(np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64).max())) for x in (q, g)]
    if not lengths[0] * lengths[1] < float(np.finfo(dtype).max):
        raise DataError(
            f"similarities overflow {dtype}: the longest query has norm {lengths[0]:.3g}, the gallery {lengths[1]:.3g}"
        )
    return q.astype(dtype, copy=False), g.astype(dtype, copy=False)


def _rank_block(block: Block, start: int, relations: Relations, first: bool) -> Ranks:
    stop = start + len(block)
    for junk in relations.junk:
        block.strike(*junk.pairs(start, stop))
    rows, columns = relations.mates.pairs(start, stop)
    scores = block.scores(rows, columns)
    kept = scores > -np.inf
    if first:
        kept &= _best(rows, scores)
    rows, columns = rows[kept], columns[kept]
    query, count = np.unique(rows, return_counts=True)
    return Ranks(query + start, count, block.ranks(rows, columns))


def _best(rows: Integers, scores: NDArray[Any]) -> NDArray[np.bool_]:
    """[m] which score is its row's best, the first of equal ones; `rows` ascends."""
    best = np.zeros(len(rows), dtype=np.bool_)
    order = np.lexsort((-scores, rows))
    best[order[np.flatnonzero(np.diff(rows, prepend=-1))]] = True
    return best

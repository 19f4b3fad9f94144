"""One evaluation: its metrics, the outcome of every query, and the fingerprint that says which numbers may stand side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmkd.errors import DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.arrays import Array, Floats, Integers, to_numpy
from dmkd.evaluation.measures import rank_measures, space_measures
from dmkd.evaluation.ranks import Ranks
from dmkd.evaluation.retrieval import check_depths, outcomes
from dmkd.evaluation.search import Junk, positive_ranks

T = TypeVar("T")

DEFINITION = "dot product; junk leaves the ranking; ties by gallery position; queries without a positive skipped; mAP@R musgrave"
"""Bound into every protocol fingerprint; a change of a metric's meaning changes it."""


QUERIES = ("query_ids", "query_groups")
"""Of what names junk, the queries' side."""


@dataclass(frozen=True)
class Outcomes:
    """What became of each query that has a positive, in the order of the queries; n of them."""

    query: Integers
    """[n] position among the queries."""
    label: NDArray[np.generic]
    """[n] class of the query."""
    first_hit: Integers
    """[n] 1-based rank of the first positive: Recall@K is the share of `first_hit <= K`."""
    ap: Floats
    """[n] average precision over all ranks."""
    ap_at_r: Floats
    """[n] average precision over the first R, Musgrave's R."""


def evaluate(
    queries: Array,
    gallery: Array,
    query_labels: Array,
    gallery_labels: Array,
    *,
    evaluation: Evaluation,
    training_classes: int = 0,
    device: torch.device | None = None,
    **junk: Unpack[Junk],
) -> tuple[dict[str, float], Outcomes]:
    """All metrics in one pass over the similarities: `recall_at_<k>`, `map`, `mean_average_precision_at_r`, `r_precision`, `nmi`.

    Arguments and errors as in `dmkd.evaluation.retrieval`; give ids whenever an image may meet itself, or its copy by another
    network. `nmi` is measured when `evaluation.nmi` asks for it and the gallery holds the very vectors of the queries (symmetric
    search), by k-means with as many clusters as there are classes. `evaluation.metrics` adds others, those of the space in
    symmetric search alone; `training_classes` is the number of clusters of their released forms. `evaluation.max_queries` draws
    the queries that search; the gallery, and the space, stay whole. `device`: where similarities are computed (None: where the
    queries lie); the host does it where that is a GPU whose memory others fill.
    """
    check_depths(evaluation.k)
    asking = _drawn(len(queries), evaluation.max_queries)
    form, more = evaluation.average_precision, rank_measures(evaluation)

    def measured(where: torch.device | None) -> list[NDArray[Any]]:
        sides = _rows(queries, asking), gallery, _rows(query_labels, asking), gallery_labels
        return outcomes(
            positive_ranks(*sides, device=where, **_asking(junk, asking)),
            Ranks.first,
            lambda ranks: ranks.average_precision(form),
            Ranks.average_precision_at_r,
            Ranks.r_precision,
            *more.values(),
        )

    found, hit, ap, ap_at_r, r_precision, *others = _where_memory_is(measured, device)
    metrics = {f"recall_at_{k}": float((hit <= k).mean()) for k in evaluation.k}
    metrics |= {
        "map": float(ap.mean()),
        "mean_average_precision_at_r": float(ap_at_r.mean()),
        "r_precision": float(r_precision.mean()),
    }
    if queries is gallery or np.array_equal(to_numpy(queries), to_numpy(gallery)):
        metrics |= space_measures(queries, query_labels, evaluation, training_classes)
    metrics |= {name: float(values.mean()) for name, values in zip(more, others, strict=True)}
    query = found if asking is None else asking[found]
    return metrics, Outcomes(query, to_numpy(query_labels)[query], hit, ap, ap_at_r)


def _where_memory_is(measured: Callable[[torch.device | None], T], device: torch.device | None) -> T:
    with suppress(torch.OutOfMemoryError):
        return measured(device)
    return measured(torch.device("cpu"))


def _drawn(count: int, most: int) -> Integers | None:
    """Which queries search where they are more than `most`, ascending, the same in every run; None: all of them."""
    if not most or count <= most:
        return None
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def _rows(x: Array, chosen: Integers | None) -> Array:
    if chosen is None or x is None:
        return x
    return x[torch.from_numpy(chosen).to(x.device)] if isinstance(x, Tensor) else np.asarray(x)[chosen]


def _asking(junk: Junk, chosen: Integers | None) -> Junk:
    """`junk` with the ids and groups of the chosen queries alone."""
    return cast(Junk, {name: _rows(cast(Array, keys), chosen) if name in QUERIES else keys for name, keys in junk.items()})


def write_outcomes(outcomes: Outcomes, path: Path | str) -> None:
    """Write one row a query, columns as in `Outcomes`, as zstd-compressed Parquet; the file appears whole or not at all.

    Missing folders are made. Raises `DataError` when it cannot be written.
    """
    import polars  # late: not needed to measure

    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        polars.DataFrame(asdict(outcomes)).write_parquet(beside, compression="zstd")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise DataError(f"cannot write the outcomes to {path}: {error}; choose a folder that can be written") from error


def protocol_fingerprint(split_fingerprint: str, protocol: str, *, average_precision: str = "step", quality: str = "") -> str:
    """16 hexadecimal digits of split, junk rule ("plain", "strict") and metric definition; only equal ones share a table.

    `quality` says what else the numbers depend on: how the pictures are degraded or cut (`Parts.quality`), how many queries
    search, and which landmark tests are measured in what way (`Evaluation.protocol`); it counts where it is not empty.
    """
    text = "\n".join((split_fingerprint, protocol, average_precision, DEFINITION, *([quality] if quality else [])))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Supervised whitening learned from matching pairs (Mikolajczyk and Matas 2007; Radenovic et al. 2018)."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmkd.errors import DataError, ShapeError
from dmkd.evaluation.arrays import Array, Floats, like, to_numpy, vectors


def learn_whitening(x: Array, query_indices: Array, positive_indices: Array) -> tuple[Array, Array]:
    """(mean [D], P [D, D]) of the kind and dtype of x [N, D]; applied as (x - mean) @ P.T, then usually normalised.

    mean: of the pairs' queries. P = U^T L^-1, where L L^T is the mean outer product of the pairs' differences and U holds the
    eigenvectors, largest first, of the scatter of all rows after L^-1; each row of P has its largest entry positive. The first
    rows of P alone reduce the dimension. Raises `ShapeError` for indices that do not pair up, `DataError` for one outside x.
    """
    rows = vectors(x, "x")
    wide = rows.astype(np.float64)
    queries, positives = (to_numpy(index) for index in (query_indices, positive_indices))
    if queries.ndim != 1 or queries.shape != positives.shape or not len(queries):
        raise ShapeError(f"pairs: found shapes {list(queries.shape)} and {list(positives.shape)}, wanted two of the same length")
    if min(queries.min(), positives.min()) < 0 or max(queries.max(), positives.max()) >= len(rows):
        raise DataError(f"pairs: an index lies outside the {len(rows)} rows of x")
    mean = wide[queries].mean(axis=0)
    difference = wide[queries] - wide[positives]
    inverse = np.linalg.inv(_cholesky(difference.T @ difference / len(difference)))
    spread = (wide - mean) @ inverse.T
    _, vectors_ = np.linalg.eigh(spread.T @ spread)
    projection = vectors_[:, ::-1].T @ inverse
    largest = np.abs(projection).argmax(axis=1, keepdims=True)
    projection *= np.sign(np.take_along_axis(projection, largest, axis=1))
    return like(mean.astype(rows.dtype), x), like(projection.astype(rows.dtype), x)


def whiten(x: Array, mean: Array, projection: Array) -> Array:
    """[N, D] rows of x [N, D] after (x - mean) @ P.T, divided by their length + 1e-6 (as released); of the kind of x."""
    rows = (vectors(x, "x") - to_numpy(mean)) @ to_numpy(projection).T
    return like(rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6), x)


def _cholesky(matrix: Floats) -> NDArray[Any]:
    """The lower factor; too few pairs leave the matrix singular, so the diagonal grows from 1e-10 by tens until it is not."""
    for jitter in chain([0.0], (10.0**power for power in range(-10, 3))):
        try:
            return np.linalg.cholesky(matrix + jitter * np.eye(len(matrix)))
        except np.linalg.LinAlgError:
            continue
    raise DataError("whitening: the pairs' differences have no positive definite covariance, whatever is added to its diagonal")

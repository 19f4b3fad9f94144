"""How an embedding space is filled: density within classes, and how evenly its directions are used (Roth et al. 2020)."""

from __future__ import annotations

import numpy as np

from dmkd.errors import ConfigError, DataError
from dmkd.evaluation.arrays import Array, Floats, Integers, keys, vectors


def embedding_density(x: Array, labels: Array) -> float:
    """pi_intra / pi_inter of x [N, D] with labels [N], in cosine distance (Roth et al. 2020; OBD-SD, Table 8).

    pi_intra: mean over classes of the mean distance of two of its items; a class of one item is skipped. pi_inter: mean distance
    of two class means. Raises `DataError` for fewer than two classes, or when no class has two items.
    """
    rows = vectors(x, "x").astype(np.float64)
    _, codes, sizes = np.unique(keys(labels, len(rows), "labels"), return_inverse=True, return_counts=True)
    if len(sizes) < 2 or sizes.max() < 2:
        raise DataError(
            f"embedding density needs two classes and a class of two items; found {len(sizes)} classes, largest {sizes.max()}"
        )
    means = np.zeros((len(sizes), rows.shape[1]))
    np.add.at(means, codes, rows)
    sums = np.zeros_like(means)
    np.add.at(sums, codes, _unit(rows))
    several = sizes > 1
    within = _mean_distance(sums[several], sizes[several]).mean()
    between = _mean_distance(_unit(means).sum(axis=0, keepdims=True), np.array([len(sizes)]))[0]
    return float(within / max(between, 1e-8))


def _unit(x: Floats) -> Floats:
    unit: Floats = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return unit


def _mean_distance(sums: Floats, sizes: Integers) -> Floats:
    """Mean cosine distance of two of n unit vectors, from their sum: |sum|^2 = n + the cosines of all ordered pairs."""
    cosines: Floats = (np.square(sums).sum(axis=1) - sizes) / (sizes * (sizes - 1))
    return 1 - cosines


def spectral_decay(x: Array, drop: int = 0) -> float:
    """KL(uniform || spectrum) of the singular values of x [N, D], not centred, without the `drop` largest, summing to 1.

    Low: all directions are used alike (Roth et al. 2020). By a full SVD in float64; the released code's CPU branch leaves out the
    smallest value. OBD-SD's rho leaves out the two largest: drop=2. Infinite where a value is 0; where it is 0 but for rounding
    (dimensions that depend on others) the number is large and says no more than that.
    Raises `ConfigError` unless `drop` leaves a value.
    """
    values = np.linalg.svd(vectors(x, "x").astype(np.float64), compute_uv=False)
    if not 0 <= drop < len(values):
        raise ConfigError(f"drop: found {drop}, wanted 0 to {len(values) - 1} (there are {len(values)} singular values)")
    kept = values[drop:]
    if kept[-1] <= 0:
        return float("inf")
    return float(-np.log(kept / kept.sum() * len(kept)).mean())

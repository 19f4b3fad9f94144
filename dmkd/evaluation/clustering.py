"""How well k-means finds the classes again: NMI and pair-counting F1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmkd.errors import ConfigError, ShapeError
from dmkd.evaluation.arrays import Array, Floats, Integers, keys, to_numpy, vectors


def kmeans(x: Array, clusters: int, *, iterations: int = 20, seed: int = 1234) -> Integers:
    """[N] cluster numbers of the rows of x [N, D] by faiss k-means: one start, no subsampling, in float32 on the CPU.

    The settings of the released code of S2SD and OBD-SD, except that `clusters` is the caller's: there it is the number of
    *training* classes, here a caller gives the classes of what is clustered. Raises `ConfigError` for a number outside 1 .. N.
    """
    points = np.ascontiguousarray(vectors(x, "x"), dtype=np.float32)
    if not 1 <= clusters <= len(points):
        raise ConfigError(f"clusters: found {clusters}, wanted 1 to the number of rows, {len(points)}")
    import faiss  # late: it loads CUDA libraries and takes a second

    search = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        nredo=1,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    search.train(points)
    _, assignment = search.index.search(points, 1)
    numbers: Integers = assignment[:, 0]
    return numbers


def nmi(labels: Array, assignment: Array) -> float:
    """Normalised mutual information in [0, 1], arithmetic mean of the entropies (as scikit-learn's default); both [N].

    1 where neither side splits the data. Raises `ShapeError` for different lengths.
    """
    joint, left, right = (counts / counts.sum() for counts in _contingency(labels, assignment)[:3])
    entropy = _entropy(left) + _entropy(right)
    if entropy == 0:
        return 1.0
    return min(1.0, max(0.0, 2 * (entropy - _entropy(joint)) / entropy))


def clustering_f1(labels: Array, assignment: Array) -> float:
    """F1 over pairs of items, in [0, 1]: a pair is found when its items share a cluster, right when they share a label; both [N].

    The released code of S2SD names a cluster by its medoid, which changes no pair. 1 where neither side has a pair.
    Raises `ShapeError` for different lengths.
    """
    both, same_label, same_cluster = (float((counts * (counts - 1) // 2).sum()) for counts in _contingency(labels, assignment))
    pairs = same_label + same_cluster
    return 2 * both / pairs if pairs else 1.0


def _contingency(labels: Array, assignment: Array) -> tuple[Integers, Integers, Integers]:
    """Sizes of the cells that are not empty, of the classes, and of the clusters."""
    left = to_numpy(labels)
    right = keys(assignment, len(left) if left.ndim else 0, "assignment")
    if left.ndim != 1 or not len(left):
        raise ShapeError(f"labels: found shape {list(left.shape)}, wanted [N] with at least one item")
    codes, sizes = zip(*(_codes(side) for side in (left, right)), strict=True)
    _, joint = np.unique(codes[0] * len(sizes[1]) + codes[1], return_counts=True)
    return joint, sizes[0], sizes[1]


def _codes(side: NDArray[Any]) -> tuple[Integers, Integers]:
    _, codes, sizes = np.unique(side, return_inverse=True, return_counts=True)
    return codes.astype(np.int64), sizes


def _entropy(share: Floats) -> float:
    return -float(np.sum(share * np.log(share)))

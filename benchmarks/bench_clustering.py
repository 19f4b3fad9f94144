"""NMI with k = 11,316 clusters of 60,502 x 128 (SOP's test half), against faiss k-means at equal iterations.

python benchmarks/bench_clustering.py      # minutes: 5 iterations a run instead of the evaluation's 20, on both sides
"""

from __future__ import annotations

import faiss
import numpy as np
from ratio import heading, record, timed
from sklearn.metrics import normalized_mutual_info_score

from dmkd.evaluation import kmeans, nmi

IMAGES, CLASSES, ITERATIONS, REPEATS = 60_502, 11_316, 5, 5


def main() -> None:
    heading()
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.arange(CLASSES), generator.integers(0, CLASSES, IMAGES - CLASSES)])
    x = generator.standard_normal((CLASSES, 128), dtype=np.float32)[labels]
    x += 1.3 * generator.standard_normal(x.shape, dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = nmi(labels, kmeans(x, CLASSES, iterations=ITERATIONS))

    def peer() -> None:
        search = faiss.Kmeans(
            128, CLASSES, niter=ITERATIONS, seed=1234, min_points_per_centroid=1, max_points_per_centroid=IMAGES
        )
        search.train(x)
        found["peer"] = normalized_mutual_info_score(labels, search.index.search(x, 1)[1][:, 0])

    sides = [(timed(ours)[1], timed(peer)[1]) for _ in range(REPEATS)]
    print(f"NMI: ours {found['ours']:.5f}, faiss and scikit-learn {found['peer']:.5f}")
    assert abs(found["ours"] - found["peer"]) <= 0.002
    mine, theirs = zip(*sides, strict=True)
    note = f"NMI {found['ours']:.5f} and {found['peer']:.5f}; {ITERATIONS} iterations on both sides"
    record("NMI, k = 11,316 of 60,502 x 128", mine, theirs, peer_name="faiss k-means", goal=1.1, clock="cpu", note=note)


if __name__ == "__main__":
    main()

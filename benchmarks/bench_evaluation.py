"""Evaluation against pytorch-metric-learning's calculator and against sorting, at the sizes of CUB's and SOP's test halves.

python benchmarks/bench_evaluation.py             # all of it; on two quiet cores sop takes 6 minutes, cub 2
python benchmarks/bench_evaluation.py cub growth
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from ratio import device, heading, on_gpu, peak_memory, ratio, record, timed
from torch import Tensor

from dmkd.evaluation import Evaluation, evaluate, mean_average_precision
from dmkd.evaluation.products import BLOCK_MB, DEVICE_BLOCK_MB

CLOCK = "wall" if on_gpu() else "cpu"
"""A GPU is not seen in CPU seconds."""
ROWS = int((DEVICE_BLOCK_MB if on_gpu() else BLOCK_MB * torch.get_num_threads()) * 2**18)
"""Similarities of a block of the product, as many as those of all threads in ours."""
AT_R = ("precision_at_1", "r_precision", "mean_average_precision_at_r")


@dataclass(frozen=True)
class Case:
    """Unit vectors x [N, D] around their classes' centres, with labels [N]."""

    x: Tensor
    labels: Tensor

    def ours(self) -> dict[str, float]:
        """Every metric of an evaluation but NMI: R@K, mAP over all ranks, mAP@R, R-precision."""
        ids = torch.arange(len(self.x))
        both = (self.x, self.x, self.labels, self.labels)
        return evaluate(*both, evaluation=Evaluation(nmi=False), query_ids=ids, gallery_ids=ids)[0]

    def product(self, queries: int = 1 << 62) -> None:
        """Similarities (of the first queries) to all, in blocks, and nothing of them: what no exact evaluation can do without."""
        buffer = self.x.new_empty(max(16, ROWS // len(self.x) // 16 * 16), len(self.x))
        multiply = torch.matmul if on_gpu() else _on_the_host
        for start in range(0, min(queries, len(self.x)), len(buffer)):
            rows = self.x[start : start + len(buffer)]
            multiply(rows, self.x.T, out=buffer[: len(rows)])


def _on_the_host(rows: Tensor, columns: Tensor, out: Tensor) -> None:
    np.matmul(rows.numpy(), columns.numpy(), out=out.numpy())


def seconds(run: Callable[[], object]) -> float:
    """Of one run, by the clock of this machine."""
    wall, cpu = timed(run)
    return wall if on_gpu() else cpu


def case(images: int, dim: int, classes: int, spread: float) -> Case:
    generator = np.random.default_rng(0)
    labels = np.sort(np.concatenate([np.arange(classes), generator.integers(0, classes, images - classes)]))
    centres = generator.standard_normal((classes, dim), dtype=np.float32)
    x = centres[labels] + spread * generator.standard_normal((images, dim), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return Case(torch.from_numpy(x).to(device()), torch.from_numpy(labels))


def sop() -> None:
    given = case(60_502, 128, 11_316, 1.3)
    calculator = AccuracyCalculator(include=AT_R, k="max_bin_count")
    names = ("recall_at_1", "r_precision", "mean_average_precision_at_r")
    found: dict[str, dict[str, float]] = {}

    def ours() -> None:
        found["ours"] = given.ours()

    def peer() -> None:
        found["peer"] = calculator.get_accuracy(given.x, given.labels.to(given.x.device))

    memory = {"ours_mb": peak_memory(ours), "peer_mb": peak_memory(peer)}
    for own, other in zip(names, AT_R, strict=True):
        np.testing.assert_allclose(found["ours"][own], found["peer"][other], atol=2e-4)
    print(f"more memory: ours {memory['ours_mb']:.0f} MB (goal 400), calculator {memory['peer_mb']:.0f} MB")
    sides = (given.ours, peer, given.product)
    mine, theirs, product = zip(*[[seconds(side) for side in sides] for _ in range(5)], strict=True)
    name = "evaluation on a GPU, 60,502 x 128" if on_gpu() else "evaluation, 60,502 x 128 in 11,316 classes"
    note = f"ours measures mAP over all ranks too; more memory: ours {memory['ours_mb']:.0f} MB, peer {memory['peer_mb']:.0f} MB"
    shared = {"clock": CLOCK, "limit": float(np.median(product)), "limit_name": "the product alone", "note": note, **memory}
    record(f"{name}: R@K, R-precision, mAP@R", mine, theirs, peer_name="pytorch-metric-learning", goal=0.40, **shared)
    record(f"{name}: against the product", mine, product, peer_name="chunked matrix product", goal=2.0, **shared)


def argsort_map(given: Case) -> float:
    """mAP by sorting every row of the whole matrix, as it is usually written."""
    similarity = given.x @ given.x.T
    similarity.fill_diagonal_(-torch.inf)
    order = similarity.argsort(dim=1, descending=True)[:, :-1]
    hit = (given.labels.to(order.device)[order] == given.labels.to(order.device)[:, None]).float()
    precision = hit.cumsum(1) / torch.arange(1, hit.shape[1] + 1, device=hit.device)
    return float(((precision * hit).sum(1) / hit.sum(1)).mean())


def cub() -> None:
    given = case(5_924, 512, 100, 6.0)
    calculator = AccuracyCalculator(include=("mean_average_precision",), k=len(given.x) - 1)
    ids = torch.arange(len(given.x))

    def ours() -> float:
        both = (given.x, given.x, given.labels, given.labels)
        return float(mean_average_precision(*both, query_ids=ids, gallery_ids=ids))

    def peer() -> float:
        found = calculator.get_accuracy(given.x, given.labels.to(given.x.device))
        return float(found["mean_average_precision"])

    np.testing.assert_allclose([peer(), argsort_map(given)], ours(), atol=2e-4)
    memory = {"ours_mb": peak_memory(ours), "peer_mb": peak_memory(peer)}
    limits = {"limit": given.product, "limit_name": "the product alone"}
    name, note = "mAP over all ranks, 5,924 x 512 in 100 classes", f"more memory: ours {memory['ours_mb']:.0f} MB"
    ratio(f"{name}: calculator", ours, peer, peer_name="pytorch-metric-learning", goal=0.15, note=note, **limits)
    ratio(f"{name}: argsort", ours, lambda: argsort_map(given), peer_name="torch argsort", goal=0.45, note=note, **limits)


def deep() -> None:
    """mAP over all ranks where the calculator would need the sorted 60,502 x 60,502 matrix: positives far down, no short cut."""
    given = case(60_502, 128, 11_316, 4.0)
    memory = peak_memory(given.ours)
    name = "mAP over all ranks, 60,502 x 128, positives far down: against the product"
    note = f"more memory {memory:.0f} MB (goal 500); the calculator cannot run at this size"
    mine, product = ([seconds(run) for _ in range(3)] for run in (given.ours, given.product))
    record(name, mine, product, peer_name="chunked matrix product", clock=CLOCK, note=note, ours_mb=memory)


def growth() -> None:
    """How cost grows with N."""
    for images, repeats in ((5_000, 5), (20_000, 5), (60_000, 2)):
        grown(images, repeats)


def huge() -> None:
    """And once at N = 200,000: minutes."""
    grown(200_000, 1)


def grown(images: int, repeats: int) -> None:
    given = case(images, 128, images // 5, 1.3)
    mine, product = ([seconds(run) for _ in range(repeats)] for run in (given.ours, lambda: given.product(20_000)))
    whole = [taken * max(1, images / 20_000) for taken in product]
    record(f"evaluation, N = {images:,} x 128 in {images // 5:,} classes", mine, whole, peer_name="matrix product", clock=CLOCK)


PARTS: dict[str, Callable[[], None]] = {"sop": sop, "cub": cub, "deep": deep, "growth": growth, "huge": huge}


if __name__ == "__main__":
    heading()
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()

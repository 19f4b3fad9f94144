#!/usr/bin/env python
"""Fills the generated tables of docs/protocols.md from the code; tests/evaluation/test_protocols_page.py compares.

python docs/make_protocols.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.evaluation import (
    METRICS,
    Evaluation,
    clustering_f1,
    evaluate,
    kmeans,
    mean_average_precision,
    mean_average_precision_at_r,
    mean_precision_at_k,
    nmi,
    recall_at_k,
    spectral_decay,
)

PAGE = Path(__file__).with_name("protocols.md")
Vectors = NDArray[np.float64]
Numbers = NDArray[np.int64]


def example() -> tuple[Vectors, Numbers, dict[str, Numbers]]:
    """229 vectors of 16 dimensions in 22 classes of 2 to 19, two more classes of one, six copies under other classes."""
    rng = np.random.default_rng(11)
    labels = np.concatenate([np.repeat(np.arange(22), np.linspace(2, 19.5, 22).astype(int)), [22, 23]])
    x = 0.9 * rng.standard_normal((24, 16))[labels] + rng.standard_normal((len(labels), 16))
    order = rng.permutation(len(labels))
    x, labels = x[order], labels[order]
    for left, right in rng.choice(len(labels), (6, 2), replace=False):
        x[right] = x[left]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ids = np.arange(len(labels))
    return x, labels, {"query_ids": ids, "gallery_ids": ids}


def ranking(x: Vectors) -> Numbers:
    """[N, N] positions by falling similarity, earlier first among equals (similarities rounded, so that copies tie)."""
    return np.argsort(-np.round(x @ x.T, 10), axis=1, kind="stable")


def recall_by_position(x: Vectors, labels: Numbers) -> float:
    """Recall@1 where whatever is found first is taken for the query itself and dropped."""
    return float((labels[ranking(x)[:, 1]] == labels).mean())


def plain_precision(x: Vectors, labels: Numbers, k: int) -> float:
    """Precision of the first k, over k; queries without a positive skipped."""
    order = ranking(x)
    hits = np.array([labels[row[row != query][:k]] == labels[query] for query, row in enumerate(order)])
    return float(hits.mean(axis=1)[np.bincount(labels)[labels] > 1].mean())


def decay(values: Vectors) -> float:
    """The divergence of the uniform distribution from these singular values."""
    return float(-np.log(values / values.sum() * len(values)).mean())


def variants() -> list[tuple[str, str, float, str, float]]:
    """(what, default, its value, variant, its value) on the example."""
    x, y, ids = example()
    r, rows = (x, x, y, y), len(y)
    groups = np.random.default_rng(12).integers(0, 12, rows)
    strict = {"query_groups": groups, "gallery_groups": groups}
    classes, training = len(np.unique(y)), 40
    clusters, released = kmeans(x, classes), kmeans(x, training)
    values = np.linalg.svd(x, compute_uv=False)
    answered = float((np.bincount(y)[y] > 1).mean())
    recall, average = recall_at_k(*r, **ids)[1], mean_average_precision(*r, **ids)
    at_1000 = mean_average_precision(*r, at=1000, **ids)
    at_10 = mean_average_precision(*r, at=10, **ids)
    found = evaluate(*r, evaluation=Evaluation(nmi=False, max_queries=60), **ids)[0]["recall_at_1"]
    return [
        ("AP", "step", average, "trapezoidal", mean_average_precision(*r, form="trapezoidal", **ids)),
        ("mAP", "all ranks", average, "first 10, over min(n, 10)", at_10),
        (
            "mAP@1000",
            "over min(n, 1000)",
            at_1000,
            "released: over n + 1",
            mean_average_precision(*r, form="released", at=1000, **ids),
        ),
        (
            "mAP@R",
            "R without the query",
            mean_average_precision_at_r(*r, **ids),
            "released: R with the query",
            mean_average_precision_at_r(*r, form="released", **ids),
        ),
        (
            "mP@10",
            "over min(10, last positive)",
            mean_precision_at_k(*r, k=(10,), **ids)[10],
            "over 10",
            plain_precision(x, y, 10),
        ),
        ("Recall@1", "the query left out by identity", recall, "released: by position", recall_by_position(x, y)),
        ("Recall@1", "queries without a positive skipped", recall, "counted as misses", recall * answered),
        ("Recall@1", "the query alone is junk", recall, "strict: its group too", recall_at_k(*r, **ids, **strict)[1]),
        ("Recall@1", "all queries", recall, "60 drawn of them", found),
        ("NMI", f"clusters: the {classes} classes", nmi(y, clusters), f"released: {training} training classes", nmi(y, released)),
        (
            "F1",
            f"clusters: the {classes} classes",
            clustering_f1(y, clusters),
            f"released: {training}",
            clustering_f1(y, released),
        ),
        (
            "spectral decay",
            "all singular values",
            spectral_decay(x),
            "OBD-SD: without the two largest",
            spectral_decay(x, drop=2),
        ),
        (
            "spectral decay",
            "all singular values",
            spectral_decay(x),
            "released on a CPU: without the smallest",
            decay(values[:-1]),
        ),
    ]


def metrics_table() -> str:
    """Every metric of `METRICS`."""
    lines = ["| name | definition | formula | reported by |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        marks = " (always)" * metric.always + " (symmetric)" * metric.symmetric
        # In a backquoted formula Markdown sees nothing but the bar, which would end the cell.
        formula = metric.formula.replace("|", r"\vert ")
        lines.append(f"| `{name}`{marks} | {metric.definition} | $`{formula}`$ | {metric.papers} |")
    return "\n".join(lines)


def variants_table() -> str:
    """Every variant beside the default, on the example."""
    lines = ["| metric | default | value | variant | value | difference |", "|---|---|---|---|---|---|"]
    for what, default, value, variant, other in variants():
        lines.append(f"| {what} | {default} | {value:.4f} | {variant} | {other:.4f} | {other - value:+.4f} |")
    return "\n".join(lines)


def rules_table() -> str:
    """How each paper chose what it printed, and what is done here, from its recipes."""
    from sweeps.papers import recipes

    rules: dict[str, set[str]] = {}
    for key, made in recipes().items():
        if made.config is not None:
            rules.setdefault(made.selection, set()).add(key.split("/")[0])
    lines = ["| paper | rule |", "|---|---|"]
    lines += [
        f"| {', '.join(sorted(papers))} | {rule} |" for rule, papers in sorted(rules.items(), key=lambda item: sorted(item[1]))
    ]
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {"metrics": metrics_table, "variants": variants_table, "rules": rules_table}


def filled(text: str) -> str:
    """The page with each generated table made anew, between its marks."""

    def table(match: re.Match[str]) -> Any:
        return f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""The loss of tuple methods on a validation part, by which Budnik & Avrithis' code chooses its epoch (spec 5.7)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmkd.distill.asymmetric import RELATIONS, Asymmetric
from dmkd.distill.base import Method
from dmkd.distill.tuples import UNSUPERVISED, TupleMethod, leading
from dmkd.mining import hard_negatives


def validation_loss(method: Method, student: Tensor, teacher: Tensor | None, labels: Tensor, pairs: Tensor) -> float | None:
    """Mean over batches of the loss of all given pairs [P, 2] and their hardest negatives, on the scale of `train/loss`.

    student [N, D] embeddings of a validation part with labels [N], whose pictures are the pool of negatives; teacher [N, D]
    where an asymmetric method compares with it. Objectives without labels see the pictures themselves, in order. None for a
    method that is not one on tuples, or whose objective is the run's base loss, and where there are too few classes to mine.
    """
    if not isinstance(method, TupleMethod) or method.objective == "loss" or (method.gallery == "teacher" and teacher is None):
        return None
    others = student if teacher is None or method.gallery == "student" else teacher
    if method.objective in UNSUPERVISED:
        values = [
            RELATIONS[method.objective](student[some], others[some], method.form)
            for some in _batches(torch.arange(len(student)), method)
        ]
    else:
        if method.negatives and len(torch.unique(labels)) <= method.negative_count:
            return None
        tuples = _tuples(method, student, others, labels, pairs)
        values = [_term(method, student, others, some) for some in _batches(tuples, method)]
    return float(torch.stack(values).mean())


def _tuples(method: TupleMethod, student: Tensor, others: Tensor, labels: Tensor, pairs: Tensor) -> Tensor:
    """[P, M] positions: anchor, positive, negatives, as `method` draws them."""
    anchors, positives = pairs.unbind(1)
    columns = [anchors[:, None], *([positives[:, None]] if method.positives else [])]
    if method.negatives:
        unique, back = torch.unique(anchors, return_inverse=True)
        columns.append(hard_negatives(student[unique], others, labels[unique], labels, count=method.negative_count)[back])
    return torch.cat(columns, dim=1)


def _term(method: TupleMethod, student: Tensor, others: Tensor, tuples: Tensor) -> Tensor:
    own = isinstance(method, Asymmetric) and method.own
    compared = others[tuples if own else tuples[:, 1:]]
    return method.tuple_term()(student[tuples[:, 0]], compared, leading(compared, own + method.positives))


def _batches(rows: Tensor, method: TupleMethod) -> list[Tensor]:
    """Whole batches of the method's size; what is left over counts where there is no whole one."""
    batches = torch.split(rows, method.batches.size)
    return [batch for batch in batches if len(batch) == method.batches.size] or list(batches)

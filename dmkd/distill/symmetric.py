"""Symmetric training on mined tuples: how Budnik & Avrithis train students alone (Eq. 2), and Radenovic et al. their teachers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.distill.base import EpochContext, Method, MetricLoss, Objective, Shapes, Step
from dmkd.distill.tuples import TupleMethod, leading
from dmkd.errors import ShapeError


@dataclass(frozen=True)
class Symmetric(TupleMethod):
    """A tuple loss in the student's own space: anchor, positive, and negatives that it finds hard itself; no teacher.

    Published: contrastive, SGD with momentum 0.9 at 1e-5, factor 0.99 an epoch, 100 epochs (or until validation converges) of
    2000 tuples, 10 a batch, pictures of 362 pixels without augmentation. The pool is embedded anew before each epoch.
    """

    name: ClassVar[str] = "symmetric"
    paper: ClassVar[str] = "aml"

    views: Views = Views(augmentation="none")
    batches: Batches = Batches(kind="tuples", size=10, images_per_class=1, replacement=False, iterations=200, columns=0)

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ConfigError` where a tuple would lack a part."""
        self.check_tuples(columns=0)
        return SymmetricObjective(self, metric_loss(shapes.embedding) if self.objective == "loss" else None)


class SymmetricObjective(Objective):
    """One term, named as the objective; every column of a tuple is embedded by the student, with its graph."""

    def __init__(self, method: Symmetric, metric: nn.Module | None = None) -> None:
        super().__init__()
        self.method, self.metric = method, metric

    def on_epoch(self, context: EpochContext) -> Tensor:
        """[n, M] training positions of the epoch's tuples: anchor, positive, negatives."""
        return self.method.draw_tuples(context, partial(context.embed, network="student"), self.place.device)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        rows = tuple_columns(step, self.method.name)
        if self.metric is not None:
            return {"loss": self.metric(step.student.embedding, step.labels)}
        others = rows[:, 1:]
        return {self.method.objective: self.method.tuple_term()(rows[:, 0], others, leading(others, int(self.method.positives)))}


def tuple_columns(step: Step, method: str) -> Tensor:
    """The student's embeddings [Q, M, D] of a batch of tuples. Raises `ShapeError` where the step does not hold all columns."""
    columns, embedding = 0 if step.tuples is None else step.tuples.shape[1], step.student.embedding
    if step.tuples is None or embedding.shape[0] != step.tuples.numel():
        raise ShapeError(
            f"{method}: found {embedding.shape[0]} rows for {0 if step.tuples is None else len(step.tuples)} tuples of {columns} "
            "columns, wanted every column (method.batches.columns=0)"
        )
    return embedding.view(-1, columns, embedding.shape[1])


PRESETS: dict[str, Method] = {"aml_symmetric": Symmetric()}

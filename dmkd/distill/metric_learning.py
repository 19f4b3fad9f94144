"""Plain deep metric learning: the base loss alone. The undistilled baseline, and what trains teachers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dmkd.distill.base import Method, MetricLoss, Objective, Shapes, Step


class MetricObjective(Objective):
    """The term `metric`: the base loss of the student's embeddings [B, D]."""

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.metric = metric

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        return {"metric": self.metric(step.student.embedding, step.labels)}


@dataclass(frozen=True)
class MetricLearning(Method):
    """The base loss on the student's embeddings; no teacher."""

    name: ClassVar[str] = "metric_learning"

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective."""
        return MetricObjective(metric_loss(shapes.embedding))

"""Asymmetric metric learning (Budnik & Avrithis 2021): the anchor by the student, the rest by stored teacher features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.distill import relations
from dmkd.distill.base import EpochContext, Method, MetricLoss, Objective, Shapes, Step
from dmkd.distill.common import require_same_dimension, teacher_shapes
from dmkd.distill.tuples import UNSUPERVISED, TupleMethod, leading
from dmkd.errors import TrainingError
from dmkd.space import OneOf


@dataclass(frozen=True)
class Asymmetric(TupleMethod):
    """A tuple loss between the student's anchor and stored teacher features: the anchor's own, positives, mined negatives.

    Published: SGD with momentum 0.9 at 1e-3 (contrastive, regression), 1e-2 (RKD), 1e-8 (triplet, multi-similarity) or 1e-7 to
    1e-5 (DarkRank), factor 0.99 an epoch, 300 epochs of 2000 tuples, pictures of 362 pixels without augmentation. There is no
    weight: nothing else is in the loss. The objectives without labels are `regression` (Eq. 7), `rkd` (distance and angle,
    weighted 1 and 2) and `darkrank` (Eq. 9; released: 4 neighbours), the latter two over the random images of a batch. An epoch
    has `batches.iterations * batches.size` tuples.
    """

    name: ClassVar[str] = "asymmetric"
    paper: ClassVar[str] = "aml"
    teacher: ClassVar[str] = "pretrained"
    gallery: ClassVar[str] = "teacher"

    views: Views = Views(augmentation="none", teacher=False)
    batches: Batches = Batches(kind="tuples", size=10, images_per_class=1, replacement=False, iterations=200, columns=1)
    objective: Annotated[str, OneOf(("contrastive", "triplet", "multi_similarity", "loss", *UNSUPERVISED))] = "contrastive"
    """loss: the run's base loss (`loss`), of the anchors against the stored features of the batch's tuples."""
    own: bool = False
    """Take the teacher's feature of the anchor itself as a positive ("self" in Table 1; Contrastive+ with the two above)."""

    @property
    def label(self) -> str:
        """`asymmetric/` and the objective; a plus where the anchor's own feature joins positives and negatives."""
        plus = self.own and self.positives and self.negatives and self.objective not in UNSUPERVISED
        return super().label + "+" * plus

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ShapeError` where the dimensions differ, `ConfigError` where a tuple would lack a part."""
        teacher_shapes(shapes, self.name)
        if self.objective not in ("rkd", "darkrank"):
            require_same_dimension(shapes, self.name)
        self.check_tuples(columns=1, own=self.own)
        return AsymmetricObjective(self, metric_loss(shapes.embedding) if self.objective == "loss" else None)


class AsymmetricObjective(Objective):
    """One term, named as the objective. Before each epoch it draws and mines `[n, M]` tuples: anchor, positive, negatives."""

    stored: Tensor | None
    """[N, D] teacher features of the training images; not saved, since a resumed run embeds them again."""
    labels: Tensor | None
    """[N] labels of the training part, as `on_epoch` saw them."""

    def __init__(self, method: Asymmetric, metric: nn.Module | None = None) -> None:
        super().__init__()
        self.method, self.metric = method, metric
        self.register_buffer("stored", None, persistent=False)
        self.register_buffer("labels", None, persistent=False)

    def on_epoch(self, context: EpochContext) -> Tensor:
        """[n, M] training positions of the epoch's tuples; the first call embeds the training images with the teacher."""
        if self.stored is None:
            self.stored = context.embed(torch.arange(len(context.labels)), "teacher").to(self.place.device)
        stored, self.labels = self.stored, context.labels.to(self.place.device)
        return self.method.draw_tuples(context, stored.__getitem__, self.place.device)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        if step.tuples is None or self.stored is None:
            raise TrainingError("asymmetric: the step carries no tuples; on_epoch makes them before each epoch")
        method, anchor, positions = self.method, step.student.embedding, step.tuples
        teacher = self.stored[positions]
        if method.objective in UNSUPERVISED:
            return {method.objective: RELATIONS[method.objective](anchor, teacher[:, 0], method.form)}
        others = teacher if method.own else teacher[:, 1:]
        if method.objective == "loss":
            return {"loss": self._loss(step, others, positions if method.own else positions[:, 1:])}
        return {method.objective: method.tuple_term()(anchor, others, leading(others, method.own + method.positives))}

    def _loss(self, step: Step, others: Tensor, positions: Tensor) -> Tensor:
        if self.metric is None or self.labels is None:
            raise TrainingError("asymmetric: no labels yet; on_epoch reads them before each epoch")
        labels = self.labels[positions.flatten()]
        value: Tensor = self.metric(step.student.embedding, step.labels, others.flatten(0, 1), labels)
        return value


RELATIONS: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "regression": lambda student, teacher, form: relations.regression(student, teacher, form=form),
    "rkd": lambda student, teacher, form: relations.rkd(student, teacher),
    "darkrank": lambda student, teacher, form: relations.darkrank(student, teacher, form=form),
}
"""The objectives without labels, of student and teacher embeddings [B, D] of the same images and a form."""

_RANDOM = Batches(kind="tuples", size=70, images_per_class=1, replacement=False, iterations=200, columns=1)
"""As many random images as 10 tuples of 7 have (Sec. 4.1); the released code takes 5 or 10."""

PRESETS: dict[str, Method] = {
    "aml_contrastive": Asymmetric(),
    "aml_contrastive_pos": Asymmetric(negatives=False),
    "aml_contrastive_self_pos": Asymmetric(own=True, negatives=False),
    "aml_contrastive_plus": Asymmetric(own=True),
    "aml_triplet": Asymmetric(objective="triplet", margin=0.1),
    "aml_multi_similarity": Asymmetric(objective="multi_similarity"),
    "aml_regression": Asymmetric(
        objective="regression",
        batches=Batches(kind="tuples", size=10, images_per_class=1, replacement=False, iterations=2000, columns=1),
    ),
    "aml_rkd": Asymmetric(objective="rkd", batches=_RANDOM),
    "aml_darkrank": Asymmetric(objective="darkrank", form="paper", batches=_RANDOM),
}

"""Asymmetric metric learning (Budnik & Avrithis 2021): the anchor by the student, the rest by stored teacher features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.distill import relations
from dmkd.distill.base import EpochContext, Method, MetricLoss, Objective, Shapes, Step
from dmkd.distill.common import require_same_dimension
from dmkd.errors import ConfigError, DataError, TrainingError
from dmkd.losses import tuple_contrastive_loss, tuple_multi_similarity_loss, tuple_triplet_loss
from dmkd.mining import hard_negatives
from dmkd.space import Limit, OneOf, Range


@dataclass(frozen=True)
class Asymmetric(Method):
    """A tuple loss between the student's anchor and stored teacher features: the anchor's own, positives, mined negatives.

    Published: SGD with momentum 0.9 at 1e-3 (contrastive, regression) or 1e-8 (the others), factor 0.99 an epoch, 300 epochs of
    2000 tuples, pictures of 362 pixels without augmentation. There is no weight: nothing else is in the loss. An epoch has
    `batches.iterations * batches.size` tuples.
    """

    name: ClassVar[str] = "asymmetric"
    paper: ClassVar[str] = "aml"
    teacher: ClassVar[str] = "pretrained"
    gallery: ClassVar[str] = "teacher"

    views: Views = Views(augmentation="none", teacher=False)
    batches: Batches = Batches(kind="tuples", size=10, images_per_class=1, replacement=False, iterations=200, columns=1)
    objective: Annotated[str, OneOf(("contrastive", "triplet", "multi_similarity", "regression"))] = "contrastive"
    own: bool = False
    """Take the teacher's feature of the anchor itself as a positive ("self" in Table 1; Contrastive+ with the two below)."""
    positives: bool = True
    """Draw one positive of the anchor's class."""
    negatives: bool = True
    """Mine `negative_count` negatives each epoch."""
    negative_count: Annotated[int, Limit(minimum=1)] = 5
    pool: Annotated[int, Limit(minimum=1)] = 22000
    """Training images among which negatives are mined, drawn each epoch."""
    margin: Annotated[float, Range(0.05, 1.5, log=True), Limit(minimum=0)] = 0.7
    """Of the contrastive (0.7) or the triplet (0.1) objective."""
    alpha: Annotated[float, Limit(above=0)] = 1.0
    """Of the multi-similarity objective, with `beta` and `base`: the text's 1, 1, 0.6 (the released code: 2, 40, 0.5)."""
    beta: Annotated[float, Limit(above=0)] = 1.0
    base: float = 0.6
    form: Annotated[str, OneOf(("released", "paper"))] = "released"
    """Of the contrastive and the regression objective: on distances, or on cosine similarities."""

    @property
    def label(self) -> str:
        """`asymmetric/` and the objective; a plus where the anchor's own feature is a positive."""
        return f"{self.name}/{self.objective}" + "+" * (self.own and self.objective != "regression")

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ShapeError` where the dimensions differ, `ConfigError` where a tuple would lack a part."""
        require_same_dimension(shapes, self.name)
        pulls, pushes = self.own or self.positives, self.negatives
        if self.objective == "contrastive" and not (pulls or pushes):
            raise ConfigError("asymmetric: own, positives and negatives are all off; wanted at least one")
        if self.objective in ("triplet", "multi_similarity") and not (pulls and pushes):
            raise ConfigError(f"asymmetric: {self.objective} wants negatives, and positives or own; switch them on")
        if self.views.per_image != 1 or self.batches.kind != "tuples" or self.batches.columns != 1:
            raise ConfigError(
                'asymmetric wants one view of the anchor alone: views.per_image=1, batches.kind="tuples", batches.columns=1'
            )
        return AsymmetricObjective(self)


class AsymmetricObjective(Objective):
    """One term, named as the objective. Before each epoch it draws and mines `[n, M]` tuples: anchor, positive, negatives."""

    def __init__(self, method: Asymmetric) -> None:
        super().__init__()
        self.method = method
        self.stored: Tensor | None = None
        """[N, D] teacher features of the training images; not saved, since a resumed run embeds them again."""

    def on_epoch(self, context: EpochContext) -> Tensor:
        """[n, M] training positions of the epoch's tuples; the first call embeds the training images with the teacher."""
        method, labels = self.method, context.labels
        if self.stored is None:
            self.stored = context.embed(torch.arange(len(labels)), "teacher")
        generator = torch.Generator().manual_seed(int(context.generator()))
        count = (method.batches.iterations or context.plan.iterations_per_epoch) * method.batches.size
        supervised = method.objective != "regression"
        anchors = _draw_anchors(labels, count, generator, supervised, supervised and method.positives)
        columns = [anchors[:, None]]
        if supervised and method.positives:
            columns.append(_draw_positives(anchors, labels, generator)[:, None])
        if supervised and method.negatives:
            columns.append(self._mine_negatives(anchors, context, self.stored, generator))
        return torch.cat(columns, dim=1)

    def _mine_negatives(self, anchors: Tensor, context: EpochContext, stored: Tensor, generator: torch.Generator) -> Tensor:
        labels = context.labels
        known = (labels >= 0).nonzero().squeeze(1)
        pool = known[torch.randperm(len(known), generator=generator)[: self.method.pool]]
        unique, back = torch.unique(anchors, return_inverse=True)
        embedded = context.embed(unique, "student")
        mined = hard_negatives(embedded, stored[pool], labels[unique], labels[pool], count=self.method.negative_count)
        return pool[mined][back]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        if step.tuples is None or self.stored is None:
            raise TrainingError("asymmetric: the step carries no tuples; on_epoch makes them before each epoch")
        method, anchor = self.method, step.student.embedding
        teacher = self.stored[step.tuples.cpu()].to(anchor.device)
        if method.objective == "regression":
            return {"regression": relations.regression(anchor, teacher[:, 0], form=method.form)}
        others = teacher if method.own else teacher[:, 1:]
        positive = torch.zeros(others.shape[:2], dtype=torch.bool, device=anchor.device)
        positive[:, : method.own + method.positives] = True
        return {method.objective: _TERMS[method.objective](method)(anchor, others, positive)}


_TERMS: dict[str, Callable[[Asymmetric], Callable[..., Tensor]]] = {
    "contrastive": lambda method: partial(tuple_contrastive_loss, margin=method.margin, form=method.form),
    "triplet": lambda method: partial(tuple_triplet_loss, margin=method.margin),
    "multi_similarity": lambda method: partial(
        tuple_multi_similarity_loss, alpha=method.alpha, beta=method.beta, base=method.base
    ),
}


def _draw_anchors(labels: Tensor, count: int, generator: torch.Generator, labelled: bool, paired: bool) -> Tensor:
    """`count` positions, each used once before one is used again; with a label, with a class-mate, if asked."""
    allowed = labels >= 0 if labelled else torch.ones_like(labels, dtype=torch.bool)
    if paired:
        _, numbers, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
        allowed &= sizes[numbers] > 1
    positions = allowed.nonzero().squeeze(1)
    if len(positions) == 0:
        raise DataError(
            f"asymmetric: none of {len(labels)} training images has a class-mate to be its positive; set method.positives=false"
        )
    rounds = -(-count // len(positions))
    order = torch.cat([torch.randperm(len(positions), generator=generator) for _ in range(rounds)])
    return positions[order[:count]]


def _draw_positives(anchors: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform class-mate of each anchor, never the anchor itself."""
    _, numbers, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    order = numbers.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    first = sizes.cumsum(0) - sizes
    own, start = numbers[anchors], first[numbers[anchors]]
    drawn = (torch.rand(len(anchors), generator=generator, dtype=torch.float64) * (sizes[own] - 1)).long()
    drawn += drawn >= rank[anchors] - start
    positives: Tensor = order[start + drawn]
    return positives


PRESETS: dict[str, Method] = {
    "aml_contrastive": Asymmetric(),
    "aml_contrastive_plus": Asymmetric(own=True),
    "aml_triplet": Asymmetric(objective="triplet", margin=0.1),
    "aml_multi_similarity": Asymmetric(objective="multi_similarity"),
    "aml_regression": Asymmetric(
        objective="regression",
        batches=Batches(kind="tuples", size=10, images_per_class=1, replacement=False, iterations=2000, columns=1),
    ),
}

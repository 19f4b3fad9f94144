"""RAML (Suma & Tolias 2023): a student at low resolution takes the place of its teacher at high resolution, labels unseen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.distill import relations
from dmkd.distill.base import Method, MetricLoss, Objective, Plan, Shapes, Step, Weight
from dmkd.distill.common import detached, require_same_dimension
from dmkd.space import Limit, OneOf, Range


@dataclass(frozen=True)
class Raml(Method):
    """L = abs + lambda_t rel_ts + lambda_s rel_ss (Eq. 10) over A coupled views of each image; no base loss.

    Published: the student starts from the teacher's weights (`student.checkpoint=teacher`), AdamW at 1.1e-4 with weight decay
    1e-6, one-cycle, 200 epochs, 25 batches of 8 images x 8 views a step. As released, mixup's partner is a random image per view.
    """

    name: ClassVar[str] = "raml"
    paper: ClassVar[str] = "raml"
    teacher: ClassVar[str] = "pretrained"
    gallery: ClassVar[str] = "teacher"

    views: Views = Views(per_image=8, augmentation="crop_flip_jitter", mixup=0.2)
    batches: Batches = Batches(kind="plain", size=8, images_per_class=1, replacement=False, drop_last=False)
    abs: Weight = 1.0
    """Weight of the absolute term; 1 in the paper, 0 switches it off (Table 3)."""
    rel_ts: Annotated[float, Range(0.6, 0.8), Limit(minimum=0)] = 0.7
    """lambda_t: student to teacher across views; published 0.7718 / 0.6371 / 0.7482 on CUB / Cars / SOP."""
    rel_ss: Annotated[float, Range(0.6, 0.8), Limit(minimum=0)] = 0.7
    """lambda_s: student to student across views; published 0.6684 / 0.7731 / 0.6778."""
    reduction: Annotated[str, OneOf(("mean", "sum"))] = "mean"
    """Over the images of a batch: mean (the text), sum (the released code)."""

    @property
    def label(self) -> str:
        """`raml`, with the terms that are on where one is off."""
        on = [term for term in ("abs", "rel_ts", "rel_ss") if getattr(self, term)]
        return self.name if len(on) == 3 else "/".join([self.name, "+".join(on)])

    def inactive_terms(self, plan: Plan) -> tuple[str, ...]:
        """The relative terms, where there is only one view of an image."""
        return tuple(term for term in ("rel_ts", "rel_ss") if getattr(self, term)) if self.views.per_image < 2 else ()

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ShapeError` where student and teacher embed into different dimensions."""
        require_same_dimension(shapes, self.name)
        return RamlObjective(self)


class RamlObjective(Objective):
    """Those of the terms `abs`, `rel_ts`, `rel_ss` whose weight is not 0."""

    def __init__(self, method: Raml) -> None:
        super().__init__()
        self.weights = {"abs": method.abs, "rel_ts": method.rel_ts, "rel_ss": method.rel_ss}
        self.views, self.reduction = method.views.per_image, method.reduction

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        teacher = detached(step, "raml").embedding
        student, target = (x.reshape(-1, self.views, x.shape[1]) for x in (step.student.embedding, teacher))
        terms = relations.coupled_terms(student, target, reduction=self.reduction)
        return {name: weight * terms[name] for name, weight in self.weights.items() if weight}


PRESETS: dict[str, Method] = {
    "raml_cub": Raml(rel_ts=0.7718, rel_ss=0.6684),
    "raml_cars": Raml(rel_ts=0.6371, rel_ss=0.7731),
    "raml_sop": Raml(rel_ts=0.7482, rel_ss=0.6778),
}

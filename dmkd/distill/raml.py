"""RAML (Suma & Tolias 2023): a student at low resolution takes the place of its teacher at high resolution, labels unseen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.distill import relations
from dmkd.distill.base import EpochContext, Method, MetricLoss, Objective, Plan, Shapes, Step, Weight
from dmkd.distill.common import detached, require_same_dimension
from dmkd.errors import ConfigError, TrainingError
from dmkd.space import Limit, OneOf, Range


@dataclass(frozen=True)
class Raml(Method):
    """L = abs + lambda_t rel_ts + lambda_s rel_ss (Eq. 10) over A coupled views of each image; no base loss.

    Published: the student starts from the teacher's weights (`student.checkpoint=teacher`; Table 4 also starts from a teacher of
    the small resolution, `student.checkpoint=<its folder>`, and from ImageNet, an empty one), AdamW at 1.1e-4 with weight decay
    1e-6, one-cycle, 200 epochs, 25 batches of 8 images x 8 views a step. As released, mixup's partner is a random image per view.
    The student's backbone and resolution are free; only the dimensions have to agree.
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
    stored: bool = False
    """Compare with stored teacher features of the pictures without augmentation (ts_reg, the baseline without coupled views)."""

    @property
    def label(self) -> str:
        """`raml`, with the terms that are on where one is off."""
        on = [term for term in ("abs", "rel_ts", "rel_ss") if getattr(self, term)]
        name = f"{self.name}/stored" if self.stored else self.name
        return name if len(on) == 3 else "/".join([name, "+".join(on)])

    @property
    def idle(self) -> frozenset[str]:
        """The terms that are off: a search over the weights of an ablation would switch them on."""
        return frozenset(term for term in ("rel_ts", "rel_ss") if not getattr(self, term))

    def inactive_terms(self, plan: Plan) -> tuple[str, ...]:
        """The relative terms, where there is only one view of an image."""
        return tuple(term for term in ("rel_ts", "rel_ss") if getattr(self, term)) if self.views.per_image < 2 else ()

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ShapeError` where the dimensions differ, `ConfigError` where views and teacher do not fit."""
        require_same_dimension(shapes, self.name)
        if not (self.abs or self.rel_ts or self.rel_ss):
            raise ConfigError("raml: method.abs, method.rel_ts and method.rel_ss are all 0, which leaves nothing to train")
        if self.stored and (self.rel_ts or self.rel_ss or self.views.mixup):
            raise ConfigError(
                "raml: a stored feature belongs to a picture, not to a view: with method.stored=true set method.rel_ts=0, "
                "method.rel_ss=0 and method.views.mixup=0"
            )
        if self.stored == self.views.teacher:
            raise ConfigError(
                f"raml: found method.stored={self.stored} with method.views.teacher={self.views.teacher}: the teacher's features "
                "are either stored or those of its views; set one of them to the opposite"
            )
        return RamlObjective(self)


class RamlObjective(Objective):
    """Those of the terms `abs`, `rel_ts`, `rel_ss` whose weight is not 0."""

    features: Tensor | None
    """[N, D] stored teacher features; not saved, since a resumed run embeds them again."""

    def __init__(self, method: Raml) -> None:
        super().__init__()
        self.store = method.stored
        self.register_buffer("features", None, persistent=False)
        self.weights = {"abs": method.abs, "rel_ts": method.rel_ts, "rel_ss": method.rel_ss}
        self.views, self.reduction = method.views.per_image, method.reduction

    def on_epoch(self, context: EpochContext) -> None:
        """Embed the training images with the teacher, once, where its features are to be stored."""
        if self.store and self.features is None:
            self.features = context.embed(torch.arange(len(context.labels)), "teacher").to(self.place.device)

    def _teacher(self, step: Step) -> Tensor:
        if not self.store:
            return detached(step, "raml").embedding
        if self.features is None:
            raise TrainingError("raml: no stored teacher features yet; on_epoch makes them before the first epoch")
        return self.features[step.index]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        teacher = self._teacher(step)
        student, target = (x.reshape(-1, self.views, x.shape[1]) for x in (step.student.embedding, teacher))
        terms = relations.coupled_terms(student, target, reduction=self.reduction)
        return {name: weight * terms[name] for name, weight in self.weights.items() if weight}


_VIEWS = Views(per_image=8, augmentation="crop_flip_jitter", mixup=0.2)

PRESETS: dict[str, Method] = {
    "raml_cub": Raml(rel_ts=0.7718, rel_ss=0.6684),
    "raml_cars": Raml(rel_ts=0.6371, rel_ss=0.7731),
    "raml_sop": Raml(rel_ts=0.7482, rel_ss=0.6778),
    "raml_abs": Raml(rel_ts=0.0, rel_ss=0.0),
    "raml_rel_ts": Raml(abs=0.0, rel_ss=0.0),
    "raml_rel_ss": Raml(abs=0.0, rel_ts=0.0),
    "raml_uncoupled": Raml(rel_ts=0.0, rel_ss=0.0, views=dataclasses.replace(_VIEWS, coupled=False, mixup=0.0)),
    "raml_no_mixup": Raml(rel_ts=0.0, rel_ss=0.0, views=dataclasses.replace(_VIEWS, mixup=0.0)),
    "raml_ts_reg": Raml(rel_ts=0.0, rel_ss=0.0, stored=True, views=Views(augmentation="none", teacher=False)),
}
"""From raml_abs on: rows of Table 3, which ablates the augmentations with the absolute term alone; raml_ts_reg is its first."""

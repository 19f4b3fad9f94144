"""Yu et al. 2019, "Learning Metrics from Teachers": absolute and relative teachers, hint and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from dmkd.data.batches import Batches
from dmkd.distill import relations
from dmkd.distill.base import Method, MetricLoss, Objective, Shapes, Step, Weight
from dmkd.distill.common import detached, require_same_dimension, teacher_shapes
from dmkd.errors import ConfigError, ShapeError
from dmkd.space import Limit, OneOf, Range


@dataclass(frozen=True)
class Yu(Method):
    """L = L_metric + sum of weighted terms; a weight of 0 switches its term off. The default is the relative teacher on CUB.

    The published rows use the batch-hard triplet loss (`loss.name=triplet`, `loss.sampler=batch_hard`) with the released margin 0
    (`loss.margin=0`), Adam at 1e-5 with weight decay 2e-4, and lambda: absolute 1.0 / 1.5 / 2.0, relative 0.30 / 0.10 / 1.00 on
    CUB / Cars / SOP. Hint and attention have no published weight: the presets' 0.001 brings the sum of four hint norms (hundreds
    each at 224 pixels) to the size of the other terms, their 1 is the plain sum of four attention distances. Semi-supervised:
    withhold labels (`data.labelled`); distillation alone: `method.metric=0`.
    """

    name: ClassVar[str] = "yu"
    paper: ClassVar[str] = "yu2019"
    teacher: ClassVar[str] = "pretrained"

    batches: Batches = Batches(size=32, images_per_class=8, replacement=False)
    metric: Weight = 1.0
    """Weight of the base loss; 0: distillation alone, without labels ("only KD" in Table 3)."""
    absolute: Annotated[float, Range(0, 4), Limit(minimum=0)] = 0.0
    """Weight of the absolute teacher (Eq. 3); needs one dimension for both networks."""
    relative: Annotated[float, Range(0, 2), Limit(minimum=0)] = 0.3
    """Weight of the relative teacher (Eq. 5); the dimensions may differ."""
    hint: Weight = 0.0
    """Weight of the hint term (Eq. 8-9) over `layers`; the text gives no value."""
    attention: Weight = 0.0
    """Weight of the attention term (Eq. 10-12) over `layers`; the text gives no value."""
    form: Annotated[str, OneOf(("released", "paper"))] = "released"
    """Of the relative term: Frobenius norm of the whole matrix, or mean over pairs."""
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
    """Backbone stages of the hint and attention terms."""
    teacher_layers: tuple[str, ...] = ()
    """The teacher's stages that they are compared with, in the same order; empty: those of the same name. Between ResNet-101 and
    ResNet-18 the second convolution of each stage's last block ("layer1.2.conv2") has the student's channels."""
    attention_form: Annotated[str, OneOf(("yu", "zagoruyko"))] = "yu"
    """Of the attention term: absolute values and an un-squared distance, or squares and a mean squared difference."""
    hint_adapter: bool = False
    """Put a learnt 1x1 convolution on the student's stages whose channels differ from the teacher's (not in the paper)."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The `layers`, if a term looks at them."""
        return self.layers if self.hint or self.attention else ()

    @property
    def teacher_stages(self) -> tuple[str, ...]:
        """The `teacher_layers`, if a term looks at them; without any, the `layers`."""
        return (self.teacher_layers or self.layers) if self.stages else ()

    @property
    def label(self) -> str:
        """`yu/` and the terms that are on; `kd` in front where the base loss is off."""
        on = [term for term in ("absolute", "relative", "hint", "attention") if getattr(self, term)]
        return "/".join([self.name, *([] if self.metric else ["kd"]), *(["+".join(on)] if on else [])])

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ShapeError` where the absolute or the hint term does not fit, with the numbers."""
        teacher = teacher_shapes(shapes, self.name)
        if self.absolute:
            require_same_dimension(shapes, "yu's absolute term (method.absolute)")
        if not (self.metric or self.absolute or self.relative or self.hint or self.attention):
            raise ConfigError("yu: method.metric and the weights of all four terms are 0, which leaves nothing to train")
        self._check_layers()
        adapters = nn.ModuleDict()
        for layer, theirs in zip(self.layers, self.teacher_stages, strict=True) if self.hint else ():
            found, wanted = shapes.stages[layer], teacher.stages[theirs]
            if found != wanted:
                adapters[_key(layer)] = self._adapter(layer, theirs, found, wanted)
        return YuObjective(self, metric_loss(shapes.embedding) if self.metric else None, adapters)

    def _check_layers(self) -> None:
        if (self.hint or self.attention) and not self.layers:
            raise ConfigError("yu: method.layers is empty, but the hint or attention term needs at least one stage")
        if self.teacher_layers and len(self.teacher_layers) != len(self.layers):
            raise ConfigError(
                f"yu: found {len(self.teacher_layers)} method.teacher_layers for {len(self.layers)} method.layers; wanted as many"
            )

    def _adapter(self, layer: str, theirs: str, found: int, wanted: int) -> nn.Module:
        if not self.hint_adapter:
            where = "" if theirs == layer else f" at {theirs}"
            raise ShapeError(
                f"yu's hint term (method.hint): at {layer} the student has {found} channels, the teacher {wanted}{where}; "
                "set method.hint_adapter=true, or choose method.layers and method.teacher_layers that agree"
            )
        return nn.Conv2d(found, wanted, kernel_size=1, bias=False)


class YuObjective(Objective):
    """Those of the terms `metric`, `absolute`, `relative`, `hint`, `attention` whose weight is not 0."""

    def __init__(self, method: Yu, metric: nn.Module | None, adapters: nn.ModuleDict) -> None:
        super().__init__()
        self.method, self.metric, self.adapters = method, metric, adapters

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        method, student, teacher = self.method, step.student, detached(step, "yu")
        terms = {} if self.metric is None else {"metric": method.metric * self.metric(student.embedding, step.labels)}
        if method.absolute:
            terms["absolute"] = method.absolute * relations.absolute(student.embedding, teacher.embedding)
        if method.relative:
            terms["relative"] = method.relative * relations.relative(student.embedding, teacher.embedding, form=method.form)
        pairs = list(zip(method.stages, method.teacher_stages, strict=True))
        if method.hint:
            hints = [relations.hint(self._adapted(ours, student.stages[ours]), teacher.stages[theirs]) for ours, theirs in pairs]
            terms["hint"] = method.hint * torch.stack(hints).sum()
        if method.attention:
            form = method.attention_form
            maps = [relations.attention(student.stages[ours], teacher.stages[theirs], form=form) for ours, theirs in pairs]
            terms["attention"] = method.attention * torch.stack(maps).sum()
        return terms

    def _adapted(self, layer: str, feature_map: Tensor) -> Tensor:
        key = _key(layer)
        adapted: Tensor = self.adapters[key](feature_map) if key in self.adapters else feature_map
        return adapted


def _key(layer: str) -> str:
    return layer.replace(".", "_")


_R101 = ("layer1.2.conv2", "layer2.3.conv2", "layer3.22.conv2", "layer4.2.conv2")
"""Where ResNet-101 has the channels of ResNet-18's stages: 64, 128, 256, 512."""
_HINT, _ATTENTION = 0.001, 1.0

PRESETS: dict[str, Method] = {
    "yu_absolute": Yu(absolute=1.0, relative=0.0),
    "yu_relative": Yu(relative=0.3),
    "yu_relative_absolute": Yu(absolute=1.0, relative=0.3),
    "yu_absolute_cars": Yu(absolute=1.5, relative=0.0),
    "yu_relative_cars": Yu(relative=0.1),
    "yu_absolute_sop": Yu(absolute=2.0, relative=0.0),
    "yu_relative_sop": Yu(relative=1.0),
    "yu_absolute_hint": Yu(absolute=1.0, relative=0.0, hint=_HINT, teacher_layers=_R101),
    "yu_relative_hint": Yu(relative=0.3, hint=_HINT, teacher_layers=_R101),
    "yu_absolute_attention": Yu(absolute=1.0, relative=0.0, attention=_ATTENTION),
    "yu_relative_attention": Yu(relative=0.3, attention=_ATTENTION),
    "yu_absolute_hint_cars": Yu(absolute=1.5, relative=0.0, hint=_HINT, teacher_layers=_R101),
    "yu_relative_hint_cars": Yu(relative=0.1, hint=_HINT, teacher_layers=_R101),
    "yu_absolute_attention_cars": Yu(absolute=1.5, relative=0.0, attention=_ATTENTION),
    "yu_relative_attention_cars": Yu(relative=0.1, attention=_ATTENTION),
    "yu_only_absolute": Yu(metric=0.0, absolute=1.0, relative=0.0),
    "yu_only_relative": Yu(metric=0.0, relative=0.3),
}
"""Where no data set is named, CUB. The text gives no weight of the hint and attention terms (mu, kappa)."""

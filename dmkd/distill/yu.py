"""Yu et al. 2019, "Learning Metrics from Teachers": absolute and relative teachers, hint and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

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
    CUB / Cars / SOP.
    """

    name: ClassVar[str] = "yu"
    paper: ClassVar[str] = "yu2019"
    teacher: ClassVar[str] = "pretrained"

    batches: Batches = Batches(size=32, images_per_class=8, replacement=False)
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
    hint_adapter: bool = False
    """Put a learnt 1x1 convolution on the student's stages whose channels differ from the teacher's (not in the paper)."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The `layers`, if a term looks at them."""
        return self.layers if self.hint or self.attention else ()

    @property
    def label(self) -> str:
        """`yu/` and the terms that are on."""
        on = [term for term in ("absolute", "relative", "hint", "attention") if getattr(self, term)]
        return "/".join([self.name, "+".join(on)]) if on else self.name

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ShapeError` where the absolute or the hint term does not fit, with the numbers."""
        teacher = teacher_shapes(shapes, self.name)
        if self.absolute:
            require_same_dimension(shapes, "yu's absolute term (method.absolute)")
        if (self.hint or self.attention) and not self.layers:
            raise ConfigError("yu: method.layers is empty, but the hint or attention term needs at least one stage")
        adapters = nn.ModuleDict()
        for layer in self.layers if self.hint else ():
            found, wanted = shapes.stages[layer], teacher.stages[layer]
            if found != wanted:
                adapters[_key(layer)] = self._adapter(layer, found, wanted)
        return YuObjective(self, metric_loss(shapes.embedding), adapters)

    def _adapter(self, layer: str, found: int, wanted: int) -> nn.Module:
        if not self.hint_adapter:
            raise ShapeError(
                f"yu's hint term (method.hint): at {layer} the student has {found} channels, the teacher {wanted}; "
                "set method.hint_adapter=true, or choose method.layers that agree"
            )
        return nn.Conv2d(found, wanted, kernel_size=1, bias=False)


class YuObjective(Objective):
    """Terms `metric`, and those of `absolute`, `relative`, `hint`, `attention` whose weight is not 0."""

    def __init__(self, method: Yu, metric: nn.Module, adapters: nn.ModuleDict) -> None:
        super().__init__()
        self.method, self.metric, self.adapters = method, metric, adapters

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        method, student, teacher = self.method, step.student, detached(step, "yu")
        terms = {"metric": self.metric(student.embedding, step.labels)}
        if method.absolute:
            terms["absolute"] = method.absolute * relations.absolute(student.embedding, teacher.embedding)
        if method.relative:
            terms["relative"] = method.relative * relations.relative(student.embedding, teacher.embedding, form=method.form)
        if method.hint:
            hints = [relations.hint(self._adapted(x, student.stages[x]), teacher.stages[x]) for x in method.layers]
            terms["hint"] = method.hint * sum(hints, start=hints[0].new_zeros(()))
        if method.attention:
            maps = [relations.attention(student.stages[x], teacher.stages[x]) for x in method.layers]
            terms["attention"] = method.attention * sum(maps, start=maps[0].new_zeros(()))
        return terms

    def _adapted(self, layer: str, feature_map: Tensor) -> Tensor:
        key = _key(layer)
        adapted: Tensor = self.adapters[key](feature_map) if key in self.adapters else feature_map
        return adapted


def _key(layer: str) -> str:
    return layer.replace(".", "_")


PRESETS: dict[str, Method] = {
    "yu_absolute": Yu(absolute=1.0, relative=0.0),
    "yu_relative": Yu(relative=0.3),
    "yu_relative_absolute": Yu(absolute=1.0, relative=0.3),
    "yu_absolute_cars": Yu(absolute=1.5, relative=0.0),
    "yu_relative_cars": Yu(relative=0.1),
    "yu_absolute_sop": Yu(absolute=2.0, relative=0.0),
    "yu_relative_sop": Yu(relative=1.0),
}

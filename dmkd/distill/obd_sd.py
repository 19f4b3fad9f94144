"""OBD-SD (Zeng et al. 2024): the network of the epoch before teaches, its similarities diffused in the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from dmkd.distill.base import Method, MetricLoss, Objective, Plan, Shapes, Step
from dmkd.distill.common import detached, dot
from dmkd.distill.diffusion import Diffusion
from dmkd.space import Limit, Range

READY_SHARE = 0.5
"""Share of the planned epochs after which a score may be trusted. Provisional: no measurement stands behind it yet."""


@dataclass(frozen=True)
class ObdSd(Method):
    """L = L_metric + (e / E) weight T^2 KL(diffused teacher similarities || student similarities), Eq. 7; e counts from 0.

    Published weight / omega: CUB 1000 / 0.3, Cars 75 / 0.99 (the default here and in the released code), SOP 100 / 0.5 with
    diffusion temperature 0.005. PSD is the same without diffusion.
    """

    name: ClassVar[str] = "obd_sd"
    paper: ClassVar[str] = "obdsd"
    teacher: ClassVar[str] = "previous_epoch"

    weight: Annotated[float, Range(10, 2000, log=True), Limit(minimum=0)] = 75.0
    """lambda: weight of the distillation when the ramp is at its end."""
    temperature: Annotated[float, Range(0.2, 2), Limit(above=0)] = 1.0
    """tau of the row softmaxes."""
    diffusion: Diffusion = Diffusion(enabled=True)
    """Batch diffusion of the teacher's similarities; off: PSD."""
    dynamic: bool = True
    """Let the weight grow with the epochs, from 0 in the first; off: constant (Table 3)."""

    @property
    def label(self) -> str:
        """`obd_sd`, or `obd_sd/psd` without diffusion."""
        return (self.name if self.diffusion.enabled else f"{self.name}/psd") + ("" if self.dynamic else "+static")

    def ready_after(self, plan: Plan) -> int:
        """`READY_SHARE` of the plan: the weight still grows in the last epoch, so an early score says little."""
        return max(1, math.ceil(READY_SHARE * plan.epochs)) if self.dynamic else 1

    def inactive_terms(self, plan: Plan) -> tuple[str, ...]:
        """`distillation`, in a run of one epoch: its weight starts at 0."""
        return ("distillation",) if self.dynamic and plan.epochs <= 1 else ()

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective."""
        return ObdSdObjective(self, metric_loss(shapes.embedding))


class ObdSdObjective(Objective):
    """Terms `metric` and `distillation`; similarities are dot products of the embeddings as given."""

    def __init__(self, method: ObdSd, metric: nn.Module) -> None:
        super().__init__()
        self.method, self.metric = method, metric

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        method, embedding = self.method, step.student.embedding
        weight = method.weight * (step.progress if method.dynamic else 1.0)
        distillation = embedding.new_zeros(())
        # At weight 0 a teacher is not needed, and in the first epoch there may be none.
        if weight:
            teacher = detached(step, "obd_sd").embedding
            distillation = weight * method.diffusion.kl(dot(embedding), dot(teacher), method.temperature)
        return {"metric": self.metric(embedding, step.labels), "distillation": distillation}


PRESETS: dict[str, Method] = {
    "psd": ObdSd(diffusion=Diffusion(enabled=False)),
    "obd_sd": ObdSd(),
    "obd_sd_cub": ObdSd(weight=1000.0, diffusion=Diffusion(enabled=True, omega=0.3)),
    "obd_sd_sop": ObdSd(weight=100.0, diffusion=Diffusion(enabled=True, omega=0.5, temperature=0.005)),
}

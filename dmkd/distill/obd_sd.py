"""OBD-SD (Zeng et al. 2022): the network of the epoch before teaches, its similarities diffused in the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from dmkd.distill.base import EpochContext, Method, MetricLoss, Objective, Plan, Shapes, Step
from dmkd.distill.common import detached, dot
from dmkd.distill.diffusion import Diffusion, global_diffusion
from dmkd.distill.relations import similarity_kl
from dmkd.errors import ConfigError, TrainingError
from dmkd.space import Limit, OneOf, Range

READY_SHARE = 7 / 16
"""Share of the planned epochs after which a score may be trusted: from epoch 7 of 16 on, Spearman's correlation with the final
ranks is above 0.8 in 360 recorded curves, among all and among the better half (docs/search.md)."""


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
    scope: Annotated[str, OneOf(("batch", "global"))] = "batch"
    """Where similarities diffuse: in the batch, or over all training images once per epoch, of which a batch takes its part
    (Table 7; memory of three N x N matrices). Global diffusion ignores `diffusion.temperature` and `diffusion.form`."""
    neighbours: Annotated[int, Limit(minimum=1)] = 50
    """k of the global graph, which joins mutual nearest neighbours; a point counts as its own first."""
    power: Annotated[float, Limit(above=0)] = 3.0
    """Exponent of the global graph's similarities: 3 in the released code, 1 in the text (Eq. 12)."""

    @property
    def label(self) -> str:
        """`obd_sd`, `obd_sd/global`, or `obd_sd/psd` without diffusion."""
        kind = self.name if self.scope == "batch" else f"{self.name}/global"
        return (kind if self.diffusion.enabled else f"{self.name}/psd") + ("" if self.dynamic else "+static")

    def ready_after(self, plan: Plan) -> int:
        """`READY_SHARE` of the plan: the weight still grows in the last epoch, so an early score says little."""
        return max(1, math.ceil(READY_SHARE * plan.epochs)) if self.dynamic else 1

    def inactive_terms(self, plan: Plan) -> tuple[str, ...]:
        """`distillation`, in a run of one epoch: its weight starts at 0."""
        return ("distillation",) if self.dynamic and plan.epochs <= 1 else ()

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ConfigError` where global diffusion is asked for and diffusion is off."""
        if self.scope == "global" and not self.diffusion.enabled:
            raise ConfigError("obd_sd: method.scope=global with method.diffusion.enabled=false: switch it on, or set scope=batch")
        return ObdSdObjective(self, metric_loss(shapes.embedding))


class ObdSdObjective(Objective):
    """Terms `metric` and `distillation`; similarities are dot products of the embeddings as given."""

    refined: Tensor | None
    """[N, N] similarities of all training images, globally diffused; made before each epoch, so not saved."""

    def __init__(self, method: ObdSd, metric: nn.Module) -> None:
        super().__init__()
        self.method, self.metric = method, metric
        self.register_buffer("refined", None, persistent=False)

    def on_epoch(self, context: EpochContext) -> None:
        """Diffuse over the whole training set, as the network that teaches this epoch sees it: the student as it now stands."""
        method = self.method
        if method.scope == "global" and self._weight(context.epoch / max(1, context.plan.epochs)):
            features = context.embed(torch.arange(len(context.labels)), "student").to(self.place.device)
            walk = global_diffusion(features, method.neighbours, method.diffusion.omega, method.power)
            self.refined = walk @ dot(features)

    def _weight(self, progress: float) -> float:
        return self.method.weight * (progress if self.method.dynamic else 1.0)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        embedding, weight = step.student.embedding, self._weight(step.progress)
        # At weight 0 a teacher is not needed, and in the first epoch there may be none.
        distillation = weight * self._kernel(step) if weight else embedding.new_zeros(())
        return {"metric": self.metric(embedding, step.labels), "distillation": distillation}

    def _kernel(self, step: Step) -> Tensor:
        method, similarity = self.method, dot(step.student.embedding)
        if method.scope == "batch":
            return method.diffusion.kl(similarity, dot(detached(step, "obd_sd").embedding), method.temperature)
        if self.refined is None:
            raise TrainingError("obd_sd: no globally diffused similarities yet; on_epoch makes them before each epoch")
        target = self.refined[step.index[:, None], step.index].to(similarity)
        return similarity_kl(similarity, target, method.temperature)


def _diffusion(omega: float, temperature: float = 1.0) -> Diffusion:
    return Diffusion(enabled=True, omega=omega, temperature=temperature)


PRESETS: dict[str, Method] = {
    "psd": ObdSd(diffusion=Diffusion(enabled=False)),
    "psd_cub": ObdSd(weight=1000.0, diffusion=Diffusion(enabled=False)),
    "psd_static": ObdSd(diffusion=Diffusion(enabled=False), dynamic=False),
    "psd_static_cub": ObdSd(weight=1000.0, diffusion=Diffusion(enabled=False), dynamic=False),
    "obd_sd": ObdSd(),
    "obd_sd_cub": ObdSd(weight=1000.0, diffusion=_diffusion(0.3)),
    "obd_sd_sop": ObdSd(weight=100.0, diffusion=_diffusion(0.5, 0.005)),
    "obd_sd_cars_512": ObdSd(weight=200.0),
    "obd_sd_sop_512": ObdSd(weight=200.0, diffusion=_diffusion(0.5, 0.005)),
    "obd_global": ObdSd(scope="global"),
    "obd_global_cub": ObdSd(weight=1000.0, diffusion=_diffusion(0.3), scope="global"),
}
"""Where no data set is named, Cars; CUB with 512 dimensions is as with 128. The 512-d weights are the released code's."""

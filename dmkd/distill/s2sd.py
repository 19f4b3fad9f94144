"""S2SD (Roth et al. 2021): a small embedding learns from larger ones that are trained beside it on the same backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from dmkd.distill.base import Method, MetricLoss, Objective, Plan, Shapes, Step
from dmkd.distill.common import dot, unit
from dmkd.distill.diffusion import Diffusion
from dmkd.errors import ConfigError
from dmkd.space import Limit, OneOf, Range


@dataclass(frozen=True)
class S2SD(Method):
    """Simultaneous similarity-based self-distillation; the default is MSDF, the published setting on CUB and Cars.

    L = 1/2 [L_metric(f) + mean_k L_metric(g_k)] + weight * mean_k K(f, g_k) + feature_weight * K(f, features), Eq. 3-6. Each
    g_k is Linear - ReLU - Linear on the average-pooled feature map. Published on SOP: both weights 5 (preset msdf_sop).
    """

    name: ClassVar[str] = "s2sd"
    paper: ClassVar[str] = "s2sd"

    weight: Annotated[float, Range(1, 1000, log=True), Limit(minimum=0)] = 50.0
    """gamma (lambda): the distillation from the auxiliary spaces."""
    temperature: Annotated[float, Range(0.2, 2), Limit(above=0)] = 1.0
    """T of the row softmaxes."""
    features: bool = True
    """Distil from the pooled backbone features too (the F of MSDF)."""
    feature_weight: Annotated[float, Range(1, 1000, log=True, when=("features", True)), Limit(minimum=0)] = 50.0
    """Weight of the feature term."""
    feature_delay: Annotated[int, Limit(minimum=0)] = 1000
    """Optimizer steps before the feature term starts: with 1000, the 1001st step is the first that has it."""
    dims: Annotated[tuple[int, ...], Limit(minimum=1)] = (512, 1024, 1536, 2048)
    """Dimensions of the auxiliary spaces."""
    pool_aggregation: bool = False
    """Feed the auxiliary spaces average + max pooled features (the A); as released, the feature term's target too."""
    diffusion: Diffusion = Diffusion()
    """Diffusion of every target similarity matrix (Zeng et al., Table 6)."""
    form: Annotated[str, OneOf(("released", "paper"))] = "released"
    """Of the kernel K: the code's (teacher first, T^2, mean over rows), or Eq. 3 as printed (student first, sum over rows)."""

    @property
    def label(self) -> str:
        """`s2sd/` and the paper's name of the variant: dsd, msd, msdf, msdfa, ..."""
        variant = ("m" if len(self.dims) > 1 else "d") + "sd" + "f" * self.features + "a" * self.pool_aggregation
        return f"{self.name}/{variant}" + "+diffusion" * self.diffusion.enabled

    def ready_after(self, plan: Plan) -> int:
        """The first epoch that has the feature term in it; 1 without that term."""
        return self.feature_delay // max(1, plan.iterations_per_epoch) + 1 if self._has_features else 1

    def inactive_terms(self, plan: Plan) -> tuple[str, ...]:
        """`features`, where the plan ends before `feature_delay`."""
        return ("features",) if self._has_features and plan.iterations <= self.feature_delay else ()

    @property
    def _has_features(self) -> bool:
        return self.features and self.feature_weight > 0

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective, with a head and a base loss of its own for each auxiliary space."""
        if not self.dims:
            raise ConfigError("s2sd: method.dims is empty; wanted at least one auxiliary dimension, as in (2048,)")
        heads = nn.ModuleList(_head(shapes.channels, dim) for dim in self.dims)
        return S2SDObjective(self, metric_loss(shapes.embedding), heads, nn.ModuleList(metric_loss(dim) for dim in self.dims))


def _head(channels: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels, dim), nn.ReLU(), nn.Linear(dim, dim))


class S2SDObjective(Objective):
    """Terms `metric`, `auxiliary`, `distillation`, and `features` (0 before its delay).

    What teaches is detached: the distillation terms reach the base embedding alone, the auxiliary base losses the backbone too.
    """

    def __init__(self, method: S2SD, metric: nn.Module, heads: nn.ModuleList, metrics: nn.ModuleList) -> None:
        super().__init__()
        self.method, self.metric, self.heads, self.metrics = method, metric, heads, metrics

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """One group without weight decay at the global rate: as released, the betas of margin losses inside S2SD too."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad], "weight_decay": 0.0}]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        method, pooled = self.method, self._pooled(step.student.feature_map)
        base = unit(step.student.embedding)
        spaces = [unit(head(pooled)) for head in self.heads]
        losses = [metric(space, step.labels) for metric, space in zip(self.metrics, spaces, strict=True)]
        similarity = dot(base)
        kernels = [self._kernel(similarity, space) for space in spaces]
        terms = {
            "metric": 0.5 * self.metric(base, step.labels),
            "auxiliary": 0.5 * sum(losses, start=base.new_zeros(())) / len(losses),
            "distillation": method.weight * sum(kernels, start=base.new_zeros(())) / len(kernels),
        }
        if method.features and method.feature_weight:
            active = step.iteration >= method.feature_delay
            terms["features"] = method.feature_weight * self._kernel(similarity, unit(pooled)) if active else base.new_zeros(())
        return terms

    def _pooled(self, feature_map: Tensor) -> Tensor:
        average = feature_map.mean((2, 3))
        return average + feature_map.amax((2, 3)) if self.method.pool_aggregation else average

    def _kernel(self, similarity: Tensor, teacher: Tensor) -> Tensor:
        return self.method.diffusion.kl(similarity, dot(teacher), self.method.temperature, self.method.form)


PRESETS: dict[str, Method] = {
    "dsd": S2SD(dims=(2048,), features=False),
    "dsda": S2SD(dims=(2048,), features=False, pool_aggregation=True),
    "msd": S2SD(features=False),
    "msda": S2SD(features=False, pool_aggregation=True),
    "msdf": S2SD(),
    "msdfa": S2SD(pool_aggregation=True),
    "msdf_sop": S2SD(weight=5.0, feature_weight=5.0),
}

"""S2SD (Roth et al. 2021): a small embedding learns from larger ones that are trained beside it on the same backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from dmkd.distill.base import Method, MetricLoss, Objective, Plan, Shapes, Step
from dmkd.distill.common import dot, full_precision, unit
from dmkd.distill.diffusion import Diffusion
from dmkd.distill.kernels import KERNELS
from dmkd.errors import ConfigError
from dmkd.space import Limit, OneOf, Range

TOPOLOGIES: dict[str, Callable[[int], list[tuple[int, int]]]] = {
    "multi": lambda count: [(0, space) for space in range(1, count + 1)],
    "nested": lambda count: list(combinations(range(count + 1), 2)),
    "chained": lambda count: [(space, space + 1) for space in range(count)],
}
"""`S2SD.topology` -> the pairs (who learns, who teaches) among the base, 0, and `count` auxiliary spaces by rising dimension."""


@dataclass(frozen=True)
class S2SD(Method):
    """Simultaneous similarity-based self-distillation; the default is MSDF, the published setting on CUB and Cars.

    L = 1/2 [L_metric(f) + mean_k L_metric(g_k)] + weight * mean_k K(f, g_k) + feature_weight * K(f, features), Eq. 3-6. Each
    g_k is Linear - ReLU - Linear on the average-pooled feature map. Published on SOP: both weights 5 (presets *_sop).
    """

    name: ClassVar[str] = "s2sd"
    paper: ClassVar[str] = "s2sd"

    weight: Annotated[float, Range(1, 1000, log=True), Limit(minimum=0)] = 50.0
    """gamma (lambda): the distillation from the auxiliary spaces."""
    temperature: Annotated[float, Range(0.2, 2), Limit(above=0)] = 1.0
    """T of the softmaxes; no part in the kernels cosine and euclidean."""
    features: bool = True
    """Distil from the pooled backbone features too (the F of MSDF)."""
    feature_weight: Annotated[float, Range(1, 1000, log=True, when=("features", True)), Limit(minimum=0)] = 50.0
    """Weight of the feature term."""
    feature_delay: Annotated[int, Limit(minimum=0)] = 1000
    """Optimizer steps before the feature term starts: with 1000, the 1001st step is the first that has it."""
    dims: Annotated[tuple[int, ...], Limit(minimum=1)] = (512, 1024, 1536, 2048)
    """Dimensions of the auxiliary spaces."""
    depth: Annotated[int, Limit(minimum=1)] = 2
    """Linear layers of an auxiliary head, a ReLU between two (Fig. 3D); 1: a linear map."""
    pool_aggregation: bool = False
    """Feed the auxiliary spaces average + max pooled features (the A)."""
    aggregated_target: bool = True
    """With the A, take the feature term's target from those features too, as released; off: from the average alone."""
    kernel: Annotated[str, OneOf(tuple(KERNELS))] = "rows"
    """K (Fig. 3C): KL of the similarity rows, of the whole matrix, of the row means; 1 - cosine, or distance, of the rows."""
    topology: Annotated[str, OneOf(tuple(TOPOLOGIES))] = "multi"
    """Who teaches whom (Fig. 3E): each space the base (Eq. 5); each space all lower ones (Eq. 7); each the next lower (Eq. 8)."""
    distillation: bool = True
    """Off: the spaces are only trained side by side, without any K, that of the features included (Joint, Fig. 3A)."""
    detached: bool = False
    """Train the base embedding on features without gradient: the backbone learns from the auxiliary spaces (Concur., Fig. 3A)."""
    diffusion: Diffusion = Diffusion()
    """Diffusion of every target similarity matrix (Zeng et al., Table 6); with kernel rows."""
    form: Annotated[str, OneOf(("released", "paper"))] = "released"
    """Of the kernel K: the code's (teacher first, T^2, mean over rows), or Eq. 3 as printed (student first, sum over rows)."""

    @property
    def label(self) -> str:
        """`s2sd/`, the paper's name of the variant (dsd, msd, msdf, msdfa, ...), and what is unusual (`+nested`, `+joint`)."""
        variant = ("m" if len(self.dims) > 1 else "d") + "sd" + "f" * (self.features and self.distillation)
        unusual = {
            self.topology: self.topology != "multi",
            self.kernel: self.kernel != "rows",
            "joint": not self.distillation,
            "detached": self.detached,
            "diffusion": self.diffusion.enabled,
        }
        return "+".join(
            [f"{self.name}/{variant}{'a' * self.pool_aggregation}", *(word for word, true in unusual.items() if true)]
        )

    @property
    def detached_embedding(self) -> bool:
        """`detached`."""
        return self.detached

    @property
    def idle(self) -> frozenset[str]:
        """What distils where nothing is distilled; the temperature and the diffusion where the kernel has none."""
        if not self.distillation:
            return frozenset({"weight", "temperature", "feature_weight", "diffusion"})
        unused = {"temperature": self.kernel in ("cosine", "euclidean"), "diffusion": self.kernel != "rows"}
        return frozenset(name for name, idle in unused.items() if idle)

    def ready_after(self, plan: Plan) -> int:
        """The first epoch that has the feature term in it; 1 without that term."""
        return self.feature_delay // max(1, plan.iterations_per_epoch) + 1 if self.distils_features else 1

    def inactive_terms(self, plan: Plan) -> tuple[str, ...]:
        """`features`, where the plan ends before `feature_delay`."""
        return ("features",) if self.distils_features and plan.iterations <= self.feature_delay else ()

    @property
    def distils_features(self) -> bool:
        """Whether there is a feature term."""
        return self.distillation and self.features and self.feature_weight > 0

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective, with a head and a base loss of its own for each auxiliary space. Raises `ConfigError`."""
        if not self.dims:
            raise ConfigError("s2sd: method.dims is empty; wanted at least one auxiliary dimension, as in (2048,)")
        if self.diffusion.enabled and "diffusion" in self.idle:
            found = f"method.kernel={self.kernel}" if self.distillation else "method.distillation=false"
            raise ConfigError(
                f"s2sd: diffusion refines the target rows of kernel rows, found {found}: set method.diffusion.enabled=false"
            )
        heads = nn.ModuleList(_head(shapes.channels, dim, self.depth) for dim in self.dims)
        return S2SDObjective(self, metric_loss(shapes.embedding), heads, nn.ModuleList(metric_loss(dim) for dim in self.dims))


@full_precision
def _embed(pooled: Tensor, head: nn.Module) -> Tensor:
    return unit(head(pooled))


def _head(channels: int, dim: int, depth: int) -> nn.Module:
    deeper = [layer for _ in range(depth - 1) for layer in (nn.ReLU(), nn.Linear(dim, dim))]
    return nn.Sequential(nn.Linear(channels, dim), *deeper)


class S2SDObjective(Objective):
    """Terms `metric`, `auxiliary`, and where it distils `distillation`, and `features` (0 before its delay).

    What teaches is detached: a distillation term reaches those who learn alone (in "multi" the base embedding; else the lower
    auxiliary spaces, and through them the backbone, too), the auxiliary base losses the backbone too.
    """

    def __init__(self, method: S2SD, metric: nn.Module, heads: nn.ModuleList, metrics: nn.ModuleList) -> None:
        super().__init__()
        self.method, self.metric, self.heads, self.metrics = method, metric, heads, metrics
        rising = sorted(range(len(method.dims)), key=method.dims.__getitem__)
        places = [0, *(position + 1 for position in rising)]
        self.pairs = [(places[low], places[high]) for low, high in TOPOLOGIES[method.topology](len(rising))]

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """One group without weight decay at the global rate: as released, the betas of margin losses inside S2SD too."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad], "weight_decay": 0.0}]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        average, pooled = self._pooled(step.student.feature_map)
        base = unit(step.student.embedding)
        spaces = [_embed(pooled, head) for head in self.heads]
        losses = [metric(space, step.labels) for metric, space in zip(self.metrics, spaces, strict=True)]
        terms = {
            "metric": 0.5 * self.metric(base, step.labels),
            "auxiliary": 0.5 * sum(losses, start=base.new_zeros(())) / len(losses),
        }
        target = pooled if self.method.aggregated_target else average
        return terms | self._distilled([base, *spaces], target, step.iteration) if self.method.distillation else terms

    def _distilled(self, spaces: list[Tensor], features: Tensor, iteration: int) -> dict[str, Tensor]:
        method, similarities = self.method, [dot(space) for space in spaces]
        kernels = [self._kernel(similarities[learner], similarities[teacher]) for learner, teacher in self.pairs]
        terms = {"distillation": method.weight * sum(kernels, start=kernels[0].new_zeros(())) / len(kernels)}
        if method.distils_features:
            active = iteration >= method.feature_delay
            own = self._kernel(similarities[0], dot(unit(features))) if active else kernels[0].new_zeros(())
            terms["features"] = method.feature_weight * own
        return terms

    def _pooled(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """The average [B, C], and what the auxiliary spaces see."""
        average = feature_map.mean((2, 3))
        return average, average + feature_map.amax((2, 3)) if self.method.pool_aggregation else average

    def _kernel(self, similarity: Tensor, teacher: Tensor) -> Tensor:
        method = self.method
        if method.kernel == "rows":
            return method.diffusion.kl(similarity, teacher, method.temperature, method.form)
        return KERNELS[method.kernel](similarity, teacher.detach(), method.temperature, method.form)


DSD, MSD = S2SD(dims=(2048,), features=False), S2SD(features=False)

VARIANTS: dict[str, S2SD] = {
    "dsd": DSD,
    "dsda": replace(DSD, pool_aggregation=True),
    "msd": MSD,
    "msda": replace(MSD, pool_aggregation=True),
    "msdf": S2SD(),
    "msdfa": S2SD(pool_aggregation=True),
}
"""Tables 1 and 2, on CUB and Cars."""

PRESETS: dict[str, Method] = {
    **VARIANTS,
    **{f"{name}_sop": replace(variant, weight=5.0, feature_weight=5.0) for name, variant in VARIANTS.items()},
    # The command lines that were released for SOP, against the text's 5 and 5.
    "msdf_sop_released": S2SD(weight=50.0, feature_weight=5.0),
    "msd_nested": replace(MSD, topology="nested"),
    "msd_chained": replace(MSD, topology="chained"),
    "dsd_joint": replace(DSD, distillation=False),
    "dsd_detached": replace(DSD, distillation=False, detached=True),
    "msd_diffusion": replace(MSD, diffusion=Diffusion(enabled=True, omega=0.3)),
    "msd_diffusion_cars": replace(MSD, diffusion=Diffusion(enabled=True, omega=0.99)),
}

"""Baselines with a pretrained teacher: RKD, DarkRank, PKT, and the KL of similarities, with or without batch diffusion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from dmkd.data.batches import Batches
from dmkd.distill import relations
from dmkd.distill.base import Method, MetricLoss, Objective, Shapes, Step, Weight
from dmkd.distill.common import detached, dot, teacher_shapes
from dmkd.distill.diffusion import Diffusion
from dmkd.errors import ConfigError
from dmkd.space import Limit, OneOf, Range

Relation = Callable[[Tensor, Tensor], Tensor]
"""A term between student embeddings [B, D] and teacher embeddings [B, D']."""


@dataclass(frozen=True)
class Baseline(Method):
    """L = metric * L_metric + weight * relation(student, teacher); the dimensions may differ."""

    teacher: ClassVar[str] = "pretrained"

    weight: Annotated[float, Range(0.01, 1000, log=True), Limit(minimum=0)] = 1.0
    """lambda: weight of the distillation."""
    metric: Weight = 1.0
    """Weight of the base loss; 0: distillation alone, without labels."""

    def relation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distillation term, unweighted."""
        raise NotImplementedError

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ConfigError` where nothing would be trained."""
        teacher_shapes(shapes, self.name)
        if not self.weight and not self.metric:
            raise ConfigError(f"{self.name}: method.weight and method.metric are both 0, which leaves nothing to train")
        return BaselineObjective(self, metric_loss(shapes.embedding) if self.metric else None)


class BaselineObjective(Objective):
    """Those of the terms `metric` and `distillation` whose weight is not 0."""

    def __init__(self, method: Baseline, metric: nn.Module | None) -> None:
        super().__init__()
        self.method, self.metric = method, metric

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        method, embedding = self.method, step.student.embedding
        terms = {} if self.metric is None else {"metric": method.metric * self.metric(embedding, step.labels)}
        if method.weight:
            terms["distillation"] = method.weight * method.relation(embedding, detached(step, method.name).embedding)
        return terms


@dataclass(frozen=True)
class Rkd(Baseline):
    """Relational knowledge distillation (Park et al. 2019), its distance and angle terms weighted 1 and 2."""

    name: ClassVar[str] = "rkd"

    distance: Weight = 1.0
    angle: Weight = 2.0

    def relation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`relations.rkd`."""
        return relations.rkd(student, teacher, distance=self.distance, angle=self.angle)


@dataclass(frozen=True)
class DarkRank(Baseline):
    """Ranking likelihood (Chen et al. 2018), in the hard form that RKD and Budnik & Avrithis compare with."""

    name: ClassVar[str] = "darkrank"

    alpha: Annotated[float, Limit(above=0)] = 3.0
    """Scale of the scores -alpha * distance^beta."""
    beta: Annotated[float, Limit(above=0)] = 3.0
    list_size: Annotated[int, Limit(minimum=1)] = 4
    """Nearest neighbours of the teacher that are ranked."""
    form: Annotated[str, OneOf(("released", "paper"))] = "released"

    @property
    def exact_teacher(self) -> bool:
        """True: rounding swaps neighbours in the order that is learnt."""
        return True

    def relation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`relations.darkrank`."""
        options = {"alpha": self.alpha, "beta": self.beta, "list_size": self.list_size}
        return relations.darkrank(student, teacher, form=self.form, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pkt(Baseline):
    """Probabilistic knowledge transfer (Passalis & Tefas 2018): a mean over B^2 entries, so small beside a KL over rows."""

    name: ClassVar[str] = "pkt"

    weight: Annotated[float, Range(0.01, 1e5, log=True), Limit(minimum=0)] = 1.0

    def relation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`relations.pkt`."""
        return relations.pkt(student, teacher)


@dataclass(frozen=True)
class Kl(Baseline):
    """KL of similarity rows to a frozen teacher's: BAR (a born-again ranker) where the teacher has the student's architecture.

    Zeng et al. give BAR the weights 100 (CUB) and 50 (Cars) and no code: the form is inferred.
    """

    name: ClassVar[str] = "kl"

    weight: Annotated[float, Range(1, 1000, log=True), Limit(minimum=0)] = 100.0
    temperature: Annotated[float, Range(0.2, 2), Limit(above=0)] = 1.0
    diffusion: Diffusion = Diffusion()
    """Batch diffusion of the teacher's similarities (Zeng et al., Table 6)."""
    form: Annotated[str, OneOf(("released", "paper"))] = "released"

    @property
    def label(self) -> str:
        """`kl`, or `kl+diffusion`."""
        return self.name + "+diffusion" * self.diffusion.enabled

    def relation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL between dot products of the embeddings as given."""
        return self.diffusion.kl(dot(student), dot(teacher), self.temperature, self.form)


@dataclass(frozen=True)
class TwoStage(Kl):
    """S2SD's two-stage control (Dist., Fig. 3A): DSD with a frozen teacher, trained before (metric_learning, student.dim=2048).

    L = 1/2 L_metric(f) + weight * K(f, teacher): what Eq. 4 leaves the base embedding once the other space is a network of its
    own. The text prints no formula ("separating DSD"); metric=1 is the other reading. Published on SOP: weight 5.
    """

    name: ClassVar[str] = "two_stage"
    paper: ClassVar[str] = "s2sd"

    weight: Annotated[float, Range(1, 1000, log=True), Limit(minimum=0)] = 50.0
    metric: Weight = 0.5


_YU = Batches(size=32, images_per_class=8, replacement=False)

PRESETS: dict[str, Method] = {
    "bar": Kl(),
    "bar_cars": Kl(weight=50.0),
    "bar_diffusion": Kl(diffusion=Diffusion(enabled=True, omega=0.3)),
    "bar_diffusion_cars": Kl(weight=50.0, diffusion=Diffusion(enabled=True, omega=0.99)),
    "s2sd_two_stage": TwoStage(),
    "s2sd_two_stage_sop": TwoStage(weight=5.0),
    "yu_darkrank": DarkRank(batches=_YU),
    "yu_pkt": Pkt(weight=30000.0, batches=_YU),
}
"""Zeng et al. give BAR no omega: those of OBD-SD. Yu et al. give their baselines DarkRank and PKT no weight: 1 for the former,
whose size is that of the metric loss, and for the latter the 30000 under which Tian et al. 2020 (Contrastive Representation
Distillation) compare it."""

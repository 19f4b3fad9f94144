"""The one interface: a method is a file, and its objective is the whole loss, base loss included.

A `Method` is a frozen dataclass of hyper-parameters (each with its paper's default and its range); `Method.build` makes the
`Objective`, an `nn.Module` from a `Step` to named, already weighted terms. The trainer knows nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.models.embedder import Features
from dmkd.space import Limit

MetricLoss = Callable[[int], nn.Module]
"""Makes a fresh base loss for an embedding dimension (own betas, own miner): `metric_loss(512)(x [B, D], labels [B])`."""


@dataclass(frozen=True)
class Step:
    """All that an objective may look at.

    Rows of one image stand together, views ascending, so that `x.reshape(-1, views, D)` gives `[images, views, D]`.
    """

    labels: Tensor
    """[B] class numbers, 0 .. classes - 1; -1 where the label is withheld."""
    index: Tensor
    """[B] position of the row's image in the training part (stored features, global diffusion, mining)."""
    view: Tensor
    """[B] which augmentation of its image a row is (coupled views share an index)."""
    role: Tensor
    """[B] 0 anchor, 1 positive, 2 negative in tuple batches; 0 elsewhere."""
    student: Features
    teacher: Features | None
    iteration: int
    """Optimizer steps done before this one, over the whole run."""
    progress: float
    """Epochs done / epochs planned: e / E with e counted from 0."""
    tuples: Tensor | None = None
    """[Q, M] training positions of each anchor's tuple (anchor, positives, negatives), for objectives that mine them."""


class EpochContext(Protocol):
    """What an objective may ask for between epochs."""

    epoch: int
    plan: Plan
    labels: Tensor
    """[N] class numbers of the training part."""
    pairs: Tensor | None
    """[P, 2] training positions of given (query, positive) pairs; None: any two of a class are one."""

    def embed(self, positions: Sequence[int] | Tensor, network: str = "student") -> Tensor:
        """[n, D] embeddings of training images under the test transform, by `student` or `teacher`, on the CPU, no graph."""

    def generator(self) -> Tensor:
        """[] int64 seed that depends on the run's seed and the epoch alone."""


@dataclass(frozen=True)
class Plan:
    """How long a run is planned to be."""

    epochs: int
    iterations_per_epoch: int

    @property
    def iterations(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.iterations_per_epoch


@dataclass(frozen=True)
class Shapes:
    """What a network gives: the sizes that a method needs to build its heads, and to refuse what does not fit."""

    embedding: int
    channels: int
    """Channels of `feature_map` and of `pooled`."""
    stages: Mapping[str, int] = field(default_factory=dict)
    """Channels of each requested stage."""
    teacher: Shapes | None = None
    classes: int = 0
    """Training classes."""
    images: int = 0
    """Training images."""


class Objective(nn.Module):
    """The whole objective of a method.

    Its `parameters()` join the optimizer (a parameter group of its own, or several: see `parameter_groups`); its `state_dict`
    (heads, betas, counters) is saved, so whatever must survive a resume is a buffer or a parameter.
    """

    place: Tensor
    """[], not saved: where the objective is. What it keeps of an epoch belongs there too, in buffers that are not saved: in each
    step a copy from elsewhere would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(()), persistent=False)

    def on_epoch(self, context: EpochContext) -> Tensor | None:
        """Called before each epoch, the first included: mine, diffuse globally, store teacher features.

        Returns [n, M] training positions of the epoch's tuples when `Method.batches.kind` is "tuples", else None.
        """
        return None

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the objective's own parameters.

        A module inside that has `parameter_groups(lr)` itself (a margin loss, whose betas learn at 5e-4) is asked for its own;
        what is left makes one group without weight decay at the global rate.
        """
        asked = [module for module in self.modules() if module is not self and hasattr(module, "parameter_groups")]
        groups = [group for module in asked for group in module.parameter_groups(lr)]  # type: ignore[operator]
        taken = {id(parameter) for group in groups for parameter in group["params"]}
        rest = [parameter for parameter in self.parameters() if parameter.requires_grad and id(parameter) not in taken]
        return groups + ([{"params": rest, "weight_decay": 0.0}] if rest else [])

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named scalar terms, each already weighted; the loss is their sum."""
        raise NotImplementedError


@dataclass(frozen=True)
class Method:
    """Hyper-parameters of a method; a subclass adds its own and says what it needs."""

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    """Citation key of `published.csv`: yu2019, s2sd, aml, raml, obdsd; empty for a baseline without a paper here."""
    teacher: ClassVar[str] = "none"
    """none | pretrained | previous_epoch"""
    gallery: ClassVar[str] = "student"
    """Which network embeds the gallery at test time: student | teacher."""

    views: Views = Views()
    batches: Batches = Batches()

    @property
    def stages(self) -> tuple[str, ...]:
        """Backbone stages that the networks must return ("layer1" .. "layer4" of a ResNet; see models.backbones)."""
        return ()

    @property
    def teacher_stages(self) -> tuple[str, ...]:
        """Those of the teacher, where it calls them otherwise."""
        return self.stages

    @property
    def exact_teacher(self) -> bool:
        """Run the teacher in float32 whatever `optim.precision` says: where its rounding would be much of the loss."""
        return False

    @property
    def label(self) -> str:
        """What a leaderboard shows: the name, and the preset's where it has one ("s2sd/msdf")."""
        return self.name

    @property
    def idle(self) -> frozenset[str]:
        """Fields that have no effect beside the values of the others: `space.search_space` leaves them out."""
        return frozenset()

    @property
    def detached_embedding(self) -> bool:
        """Whether the student's own embedding is trained on features without gradient, so that it does not reach the backbone."""
        return False

    def tuples_per_epoch(self, labels: Tensor) -> int | None:
        """Tuples that `Objective.on_epoch` makes of a training part with these labels [N]; None: as many as `batches` asks."""
        return None

    def ready_after(self, plan: Plan) -> int:
        """Epochs before a score says something about this method (early stopping must not look earlier)."""
        return 1

    def inactive_terms(self, plan: Plan) -> tuple[str, ...]:
        """Terms that can never become active within the plan (a delay longer than the run)."""
        return ()

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ShapeError` with the numbers when the networks do not fit this method."""
        raise NotImplementedError


Weight = Annotated[float, Limit(minimum=0)]
"""A weight of a loss term: finite and not negative; 0 switches the term off."""

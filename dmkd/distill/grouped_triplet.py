"""How RAML's teachers are trained (Suma & Tolias 2023, Sec. 4.2): groups of one class, and negatives out of a large pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from dmkd.data.batches import Batches
from dmkd.distill.base import EpochContext, Method, MetricLoss, Objective, Shapes, Step
from dmkd.distill.symmetric import tuple_columns
from dmkd.distill.tuples import draw_pool, seeded
from dmkd.errors import ConfigError, DataError
from dmkd.losses import tuple_triplet_loss
from dmkd.mining import weighted_negatives
from dmkd.space import Limit, OneOf, Range


@dataclass(frozen=True)
class GroupedTriplet(Method):
    """Triplets of groups: each of `batches.images_per_class` images of a class is an anchor, the others are its positives.

    Before each epoch every anchor draws `negative_count` negatives without replacement out of a pool of the training set,
    embedded once, with distance weights (Wu et al. 2017). Classes that do not fill a group are left out; of the others each gives
    as many images as the smallest of them has, rounded down to whole groups. Published: AdamW with weight decay 1e-6, one-cycle,
    200 epochs, batches of 200 anchors (50 groups; SOP 4000), crop and flip; the rate is not given. `batches.size` counts groups.
    """

    name: ClassVar[str] = "grouped_triplet"
    paper: ClassVar[str] = "raml"

    batches: Batches = Batches(kind="tuples", size=50, images_per_class=4, replacement=False, columns=0, drop_last=False)
    margin: Annotated[float, Range(0.1, 1.5, log=True), Limit(minimum=0)] = 0.7
    """On squared distances (the released code's; the text gives none)."""
    negative_count: Annotated[int, Limit(minimum=1)] = 4
    """Negatives of each anchor."""
    pool: Annotated[int, Limit(minimum=1)] = 20000
    """Training images out of which negatives are drawn, themselves drawn each epoch."""
    floor: Annotated[float, Limit(minimum=0)] = 1e-6
    """Added to the weight of every image of the pool before drawing; as released, class-mates of the anchor included."""
    reduction: Annotated[str, OneOf(("mean", "sum"))] = "mean"
    """Over anchors, after the mean over an anchor's positives x negatives: mean, or sum (the released code)."""

    def tuples_per_epoch(self, labels: Tensor) -> int:
        """Groups in an epoch."""
        sizes, each = _whole_groups(labels, self.batches.images_per_class)
        return int((sizes >= self.batches.images_per_class).sum()) * each // self.batches.images_per_class

    def build(self, shapes: Shapes, metric_loss: MetricLoss) -> Objective:
        """The objective. Raises `ConfigError` where batches are no tuples of groups."""
        batches = self.batches
        if self.views.per_image != 1 or batches.kind != "tuples" or batches.columns != 0 or batches.images_per_class < 2:
            raise ConfigError(
                f'{self.name} wants views.per_image=1, batches.kind="tuples", batches.columns=0 and batches.images_per_class '
                f"of at least 2; found {self.views.per_image}, {batches.kind!r}, {batches.columns} and {batches.images_per_class}"
            )
        return GroupedTripletObjective(self)


class GroupedTripletObjective(Objective):
    """The term `triplet`. A tuple holds G images of a class, then the negatives of the first, of the second, ..."""

    def __init__(self, method: GroupedTriplet) -> None:
        super().__init__()
        self.method = method

    def on_epoch(self, context: EpochContext) -> Tensor:
        """[n, G + G * negative_count] training positions. Raises `DataError` where no class fills a group."""
        method, labels, generator = self.method, context.labels, seeded(context)
        groups = _draw_groups(labels, method.batches.images_per_class, generator)
        pool, anchors = draw_pool(labels, method.pool, generator), groups.flatten()
        needed, place = torch.unique(torch.cat((anchors, pool)), return_inverse=True)
        rows, split, device = context.embed(needed, "student")[place], len(anchors), self.place.device
        sides = rows[:split], rows[split:], labels[anchors], labels[pool]
        options = {"count": method.negative_count, "floor": method.floor}
        drawn = weighted_negatives(
            *(side.to(device) for side in sides),
            generator=generator if device.type == "cpu" else seeded(context, device),
            **options,  # type: ignore[arg-type]
        )
        return torch.cat((groups, pool[drawn.cpu()].view(len(groups), -1)), dim=1)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Named terms; see the class."""
        method, rows = self.method, tuple_columns(step, self.method.name)
        size = method.batches.images_per_class
        groups, negatives = rows[:, :size], rows[:, size:].reshape(len(rows), size, method.negative_count, -1)
        others = torch.cat((groups[:, _mates(size, rows.device)], negatives), dim=2).flatten(0, 1)
        positive = (torch.arange(others.shape[1], device=rows.device) < size - 1).expand(others.shape[:2])
        loss = tuple_triplet_loss(groups.flatten(0, 1), others, positive, margin=method.margin, reduction="mean")
        return {"triplet": loss * (len(others) if method.reduction == "sum" else 1)}


def _mates(size: int, device: torch.device) -> Tensor:
    """[size, size - 1] the other members of a group, in order; made where they are needed, since a copy would be waited for."""
    column = torch.arange(size - 1, device=device)
    return column + (column >= torch.arange(size, device=device)[:, None])


def _whole_groups(labels: Tensor, size: int) -> tuple[Tensor, int]:
    """Images of each class, and how many of them each class that fills a group gives to an epoch (0 where none does)."""
    _, sizes = torch.unique(labels[labels >= 0], return_counts=True)
    large = sizes[sizes >= size]
    return sizes, int(large.min()) // size * size if len(large) else 0


def _draw_groups(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """[n, size] positions, no image twice: each class that fills a group gives equally many images, drawn anew each epoch."""
    sizes, each = _whole_groups(labels, size)
    if not each:
        largest = int(sizes.max()) if len(sizes) else 0
        raise DataError(
            f"grouped_triplet: no class has {size} labelled training images, the largest has {largest};"
            " lower method.batches.images_per_class"
        )
    groups = []
    for label in torch.unique(labels[labels >= 0]).tolist():
        members = (labels == label).nonzero().squeeze(1)
        if len(members) >= size:
            groups.append(members[torch.randperm(len(members), generator=generator)[:each]].view(-1, size))
    return torch.cat(groups)


PRESETS: dict[str, Method] = {
    "raml_teacher": GroupedTriplet(),
    "raml_teacher_sop": GroupedTriplet(
        batches=Batches(kind="tuples", size=1000, images_per_class=4, replacement=False, columns=0, drop_last=False)
    ),
}

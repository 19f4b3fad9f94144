"""How training batches are composed (P classes x K images, plain shuffled images, or tuples), and the loading of batches.

Every batch is a function of (seed, epoch, position): there is no generator state to save, and 0 and 2 workers give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from dmkd.data import samplers
from dmkd.data.loading import load
from dmkd.data.pictures import Labels, Pictures
from dmkd.data.rows import PLAN, RowMaker, TestRows
from dmkd.data.views import Views, generator
from dmkd.errors import DataError
from dmkd.space import Limit, OneOf


@dataclass(frozen=True)
class Batches:
    """Composition of a batch. Defaults are those of S2SD and OBD-SD: 56 class draws x 2 images, both with replacement."""

    kind: Annotated[str, OneOf(("classes", "plain", "tuples"))] = "classes"
    size: Annotated[int, Limit(minimum=1)] = 112
    """Images in a batch (before views are counted); for tuples, tuples in a batch."""
    images_per_class: Annotated[int, Limit(minimum=1)] = 2
    replacement: bool = True
    """Draw classes and images with replacement (Revisiting DML); without: a permutation of classes is cut sequentially (Yu)."""
    iterations: Annotated[int, Limit(minimum=0)] = 0
    """Batches in an epoch; 0: floor(images / size)."""
    drop_last: bool = True
    columns: Annotated[int, Limit(minimum=0)] = 1
    """For tuples: how many leading columns are drawn as pictures (1: the anchor alone; the rest are stored features; 0: all)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """R rows: the rows of one image stand together, views ascending; the columns of one tuple stand together."""

    student: Tensor
    """[R, 3, s, s] float32 RGB in [0, 1]."""
    teacher: Tensor | None
    """[R, 3, t, t]; None where the teacher's view is not drawn."""
    labels: Tensor
    """[R] class numbers of the training part; -1 where withheld."""
    index: Tensor
    """[R] positions in the training part."""
    view: Tensor
    """[R] 0 .. views - 1."""
    role: Tensor
    """[R] 0 anchor, 1 positive, 2 negative in tuple batches; 0 elsewhere."""
    tuples: Tensor | None
    """[Q, M] training positions of the batch's tuples, all columns."""

    def to(self, device: torch.device, *, channels_last: bool = False) -> Batch:
        """The batch on `device`, its images in the memory format that convolutions there prefer."""
        form = torch.channels_last if channels_last else torch.contiguous_format
        images = {
            name: None if view is None else view.to(device, memory_format=form, non_blocking=True)
            for name, view in (("student", self.student), ("teacher", self.teacher))
        }
        rest = {name: getattr(self, name) for name in ("labels", "index", "view", "role", "tuples")}
        moved = {name: None if value is None else value.to(device, non_blocking=True) for name, value in rest.items()}
        return Batch(**images, **moved)  # type: ignore[arg-type]


def iterations_per_epoch(part: Pictures, batches: Batches, tuples: int | None = None) -> int:
    """Batches in an epoch (see `samplers.epoch_length`); `tuples` is their number where batches are made of them."""
    return samplers.epoch_length(batches, len(part), len(part.classes), tuples)


def training_batches(
    part: Pictures,
    views: Views,
    batches: Batches,
    *,
    student_resolution: int,
    teacher_resolution: int | None,
    epoch: int,
    seed: int,
    workers: int = 0,
    tuples: Tensor | None = None,
    labels: Tensor | None = None,
    crop_ratio: float = 0.875,
) -> Iterator[Batch]:
    """The batches of one epoch.

    `tuples` [n, M] are training positions (column 0 the anchor; a column of the anchor's class is a positive), wanted where
    `batches.kind` is "tuples"; `labels` [N] replaces the part's own (noise; -1: withheld); `crop_ratio` serves
    `augmentation="none"`, the test transform. Raises `DataError`: a broken picture, by name; too few pictures or classes.
    """
    known = part.labels if labels is None else labels.numpy().astype(np.int64)
    plan = _plan(part, batches, known, None if tuples is None else tuples.numpy().astype(np.int64), generator(seed, epoch, PLAN))
    size = teacher_resolution if views.teacher else None
    maker = RowMaker(part, views, student_resolution, size, (seed, epoch), crop_ratio)
    yield from load(_TrainingTask(maker, known, plan), len(plan), workers)


def test_batches(
    part: Pictures,
    resolution: int,
    *,
    crop_ratio: float,
    batch_size: int,
    workers: int = 0,  # noqa: PT028
    positions: Sequence[int] | Tensor | None = None,  # noqa: PT028
    interpolation: str = "bilinear",  # noqa: PT028
) -> Iterator[Tensor]:
    """[B, 3, resolution, resolution] images under the test transform, in order (of `positions`, where given).

    Raises `DataError` naming a broken picture.
    """
    order = np.arange(len(part)) if positions is None else np.asarray(positions, dtype=np.int64)
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    yield from load(TestRows(part, chunks, resolution, crop_ratio, interpolation), len(chunks), workers)


# pytest would collect the function wherever it is imported.
test_batches.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class _Slots:
    """What one batch holds: training positions of its pictures, their roles, its tuples, and where it starts in the epoch."""

    index: Labels
    role: Labels
    start: int
    tuples: Labels | None = None


def _plan(part: Pictures, batches: Batches, labels: Labels, tuples: Labels | None, rng: np.random.Generator) -> list[_Slots]:
    if batches.kind == "tuples":
        return _tuple_plan(part, batches, labels, tuples, rng)
    chosen = samplers.plan_epoch(part, batches, labels, rng)
    starts = np.cumsum([0, *(len(index) for index in chosen)])
    return [_Slots(index, np.zeros_like(index), int(start)) for index, start in zip(chosen, starts, strict=False)]


def _tuple_plan(
    part: Pictures, batches: Batches, labels: Labels, tuples: Labels | None, rng: np.random.Generator
) -> list[_Slots]:
    if tuples is None or tuples.ndim != 2 or not tuples.size or not batches.columns <= tuples.shape[1]:
        shape = None if tuples is None else tuple(tuples.shape)
        raise DataError(
            f"tuple batches: found tuples of shape {shape}, wanted [n, M] with M >= method.batches.columns={batches.columns}"
        )
    length = samplers.epoch_length(batches, len(part), len(part.classes), len(tuples))
    cuts = samplers.cut_permutations(len(tuples), batches.size, length, batches.drop_last, rng)
    columns, plan, start = batches.columns or tuples.shape[1], [], 0
    for cut in cuts:
        rows = tuples[cut]
        drawn = rows[:, :columns]
        role = np.where(labels[drawn] == labels[rows[:, :1]], 1, 2)
        role[:, 0] = 0
        plan.append(_Slots(drawn.reshape(-1), role.reshape(-1), start, rows))
        start += drawn.size
    return plan


@dataclass(frozen=True, eq=False)
class _TrainingTask:
    """Makes the n-th batch of an epoch, in whichever process."""

    maker: RowMaker
    labels: Labels
    plan: list[_Slots]

    def __call__(self, number: int) -> Batch:
        slots, count = self.plan[number], self.maker.views.per_image
        index, role = np.repeat(slots.index, count), np.repeat(slots.role, count)
        view = np.tile(np.arange(count), len(slots.index))
        place = np.repeat(np.arange(slots.start, slots.start + len(slots.index)), count)
        student, teacher = self.maker.images(index, list(zip(place.tolist(), view.tolist(), strict=True)))
        return Batch(
            student=student,
            teacher=teacher,
            labels=torch.from_numpy(self.labels[index]),
            index=torch.from_numpy(index),
            view=torch.from_numpy(view),
            role=torch.from_numpy(role),
            tuples=None if slots.tuples is None else torch.from_numpy(slots.tuples),
        )

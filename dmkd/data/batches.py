"""How training batches are composed (P classes x K images, plain shuffled images, or tuples), and the loading of batches.

Every batch is a function of (seed, epoch, position): there is no generator state to save, and 0 and 2 workers give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from dmkd.data import CLEAN, Quality, samplers
from dmkd.data.broken import BrokenPicture
from dmkd.data.device_rows import DeviceRowMaker
from dmkd.data.loading import load
from dmkd.data.pictures import Labels, Pictures
from dmkd.data.reading import Found, made
from dmkd.data.resident import ResidentPictures
from dmkd.data.rows import PLAN, Place, RowMaker, TestRows
from dmkd.data.sized import SizedRows
from dmkd.data.slots import Slots, plan_slots
from dmkd.data.views import Views, check_degraded, generator
from dmkd.errors import ConfigError
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
    unlabelled: Annotated[float | None, Limit(minimum=0, below=1)] = None
    """For classes, where labels are withheld (data.labelled): share of a batch that is drawn from the pictures without a label,
    in whole groups of `images_per_class`, at least one (0: none), while two classes stay labelled; null: their share of all."""


@dataclass(frozen=True, eq=False)
class Batch:
    """R rows: the rows of one image stand together, views ascending; the columns of one tuple stand together."""

    student: Tensor
    """[R, 3, s, s] float32 RGB in [0, 1]; where raw, uint8 in 0 .. 255 until `to`."""
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
    sizes: Tensor | None = None
    """[R, 2] height and width of each picture in the upper left corner of `student`; None: all of it is picture."""

    def to(self, device: torch.device, *, channels_last: bool = False) -> Batch:
        """The batch on `device`, its images float32 in the memory format that convolutions there prefer.

        Where student and teacher see one tensor, it goes there once.
        """
        form = torch.channels_last if channels_last else torch.contiguous_format
        views = {id(view): view for view in (self.student, self.teacher) if view is not None}
        # Sent as they lie: to lay them out otherwise the host would copy them, to memory that is not pinned, and wait.
        sent = {key: view.to(device, non_blocking=True) for key, view in views.items()}
        there = {key: unit_range(view.contiguous(memory_format=form)) for key, view in sent.items()}
        images = {name: there.get(id(view)) for name, view in (("student", self.student), ("teacher", self.teacher))}
        rest = {name: getattr(self, name) for name in ("labels", "index", "view", "role", "tuples")}
        moved = {name: None if value is None else value.to(device, non_blocking=True) for name, value in rest.items()}
        return Batch(**images, **moved, sizes=self.sizes)  # type: ignore[arg-type]

    def pin_memory(self) -> Batch:
        """The batch, but for what lies on a device, in memory that a GPU copies from by itself (torch's loader calls it)."""
        here = {name: value for name, value in vars(self).items() if isinstance(value, Tensor) and value.device.type == "cpu"}
        pinned = {key: value.pin_memory() for key, value in {id(value): value for value in here.values()}.items()}
        return replace(self, **{name: pinned[id(value)] for name, value in here.items()})


def unit_range(images: Tensor) -> Tensor:
    """Images in [0, 1], whatever the form."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


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
    filters: tuple[str, str] = ("bilinear", "bilinear"),
    qualities: tuple[Quality, Quality] = (CLEAN, CLEAN),
    transform: str = "centre_crop",
    short_side: int = 0,
    raw: bool = False,
    pictures: ResidentPictures | None = None,
) -> Iterator[Batch]:
    """The batches of one epoch; loading processes begin with the call.

    `tuples` [n, M] are training positions (column 0 the anchor; a column of the anchor's class is a positive), wanted where
    `batches.kind` is "tuples"; `labels` [N] replaces the part's own (noise; -1: withheld); `crop_ratio` and `filters`, the
    student's and the teacher's, serve `augmentation="none"`, the test transform; so does `transform="max_side"`, under which
    pictures keep their own sizes and the teacher's are not drawn; `qualities` are the student's and the teacher's; augmented
    views are cut from pictures reduced to `short_side`, unless 0; `raw` leaves bytes as they are (but for mixup) and pins them,
    for a GPU to fetch and convert; `pictures` are those of `part`, reduced to `short_side`, from which augmented views are made
    where they lie, by this process.
    Rows that would show a broken picture are left out, tuples that have one among their members too, and a batch of which less
    than two pictures remain: `part.broken` names them.
    Raises `DataError`: more than half of the pictures are broken; too few pictures or classes; `ConfigError` where a degradation
    would take nothing away, or `short_side` too much.
    """
    check_degraded(qualities[0].degraded_size, student_resolution)
    _check_short_side(short_side, max(student_resolution, teacher_resolution or 0), any(side.boxes for side in qualities))
    known = part.labels if labels is None else labels.numpy().astype(np.int64)
    plan = plan_slots(
        part, batches, known, None if tuples is None else tuples.numpy().astype(np.int64), generator(seed, epoch, PLAN)
    )
    size = teacher_resolution if views.teacher else None
    wanted = part, views, student_resolution, size, (seed, epoch), crop_ratio, qualities, short_side, raw, filters
    maker = RowMaker(*wanted) if pictures is None else DeviceRowMaker(*wanted, pictures=pictures)
    whole = transform == "max_side" and views.augmentation == "none"
    sized = SizedRows(part, student_resolution, qualities[0]) if whole else None
    processes = workers if pictures is None else 0
    made_batches = made(part, load(_TrainingTask(maker, known, plan, sized), len(plan), processes, pin=raw))
    on_gpu = pictures is not None and pictures.pixels.is_cuda
    return (batch.pin_memory() for batch in made_batches) if on_gpu else made_batches


def _check_short_side(short_side: int, resolution: int, boxes: bool) -> None:
    if short_side and short_side < resolution:
        raise ConfigError(
            f"data.view_short_side: found {short_side}, wanted at least the {resolution} pixels of a view, or 0: whole pictures"
        )
    if short_side and boxes:
        raise ConfigError("data.view_short_side with data.use_boxes: boxes are those of whole pictures; set view_short_side=0")


def test_batches(
    part: Pictures,
    resolution: int,
    *,
    crop_ratio: float,
    batch_size: int,
    workers: int = 0,  # noqa: PT028
    positions: Sequence[int] | Tensor | None = None,  # noqa: PT028
    interpolation: str = "bilinear",  # noqa: PT028
    quality: Quality = CLEAN,  # noqa: PT028
    raw: bool = False,  # noqa: PT028
) -> Iterator[Tensor]:
    """[B, 3, resolution, resolution] images under the test transform, in order (of `positions`, where given).

    In [0, 1]; `raw` leaves bytes as they are and pins what processes load, for a GPU to fetch and convert.
    Broken pictures are left out: `part.broken` names them. Raises `DataError` where that are more than half, `ConfigError` where
    the quality's degradation would take nothing away.
    """
    check_degraded(quality.degraded_size, resolution)
    order = np.arange(len(part)) if positions is None else np.asarray(positions, dtype=np.int64)
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rows = TestRows(part, chunks, resolution, crop_ratio, interpolation, quality, raw)
    yield from made(part, load(rows, len(chunks), workers, pin=raw))


# pytest would collect the function wherever it is imported.
test_batches.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class _TrainingTask:
    """Makes the n-th batch of an epoch, in whichever process."""

    maker: RowMaker
    labels: Labels
    plan: list[Slots]
    sized: SizedRows | None = None

    def __call__(self, number: int) -> tuple[Batch | None, Found]:
        """The batch without what turns out broken (None: nothing is left to learn from), and what did."""
        planned, found = self.plan[number], Found()
        while True:
            slots = planned.readable(self.maker, found)
            if len(slots.index) < min(2, len(planned.index)):
                return None, found
            try:
                return self._batch(slots), found
            except BrokenPicture as error:
                found[error.path] = error.reason

    def _batch(self, slots: Slots) -> Batch:
        count = self.maker.views.per_image
        index, role = np.repeat(slots.index, count), np.repeat(slots.role, count)
        view = np.tile(np.arange(count), len(slots.index))
        place = np.repeat(slots.place, count)
        student, teacher, sizes = self._images(index, list(zip(place.tolist(), view.tolist(), strict=True)))
        return Batch(
            student=student,
            teacher=teacher,
            labels=torch.from_numpy(self.labels[index]),
            index=torch.from_numpy(index),
            view=torch.from_numpy(view),
            role=torch.from_numpy(role),
            tuples=None if slots.tuples is None else torch.from_numpy(slots.tuples),
            sizes=sizes,
        )

    def _images(self, index: Labels, places: list[Place]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self.sized is None:
            return *self.maker.images(index, places), None
        student, sizes = self.sized.padded(index)
        return student, None, sizes

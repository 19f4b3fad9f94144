"""The parts of a run put together from its configuration: student, objective, and how long an epoch is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from dmkd.config import Config
from dmkd.data.batches import Batch, iterations_per_epoch, training_batches
from dmkd.data.pictures import Pictures
from dmkd.data.resident import ResidentPictures, resident
from dmkd.data.splits import Parts
from dmkd.distill.base import Objective, Shapes
from dmkd.distill.teachers import NoTeacher
from dmkd.errors import ConfigError
from dmkd.models.embedder import EmbeddingNet, build_network


def make_student(config: Config, teacher: NoTeacher, device: torch.device) -> EmbeddingNet:
    """The student on `device`, from its own weights or from the teacher's. Raises `ConfigError` where there are none to take."""
    wanted = config.student
    if wanted.checkpoint == "teacher":
        if teacher.network is None:
            raise ConfigError("student.checkpoint=teacher, but this method has no pretrained teacher to start from")
        kept = {key: getattr(wanted, key) for key in ("resolution", "interpolation", "frozen_batchnorm", "frozen")}
        student = teacher.network.clone(**kept)
    else:
        student = build_network(wanted)
    format_ = torch.channels_last if config.optim.channels_last else torch.contiguous_format
    student.head.detached = config.method.detached_embedding
    return student.to(device, memory_format=format_)  # type: ignore[no-any-return, call-overload]


def make_objective(config: Config, student: EmbeddingNet, teacher: NoTeacher, part: Pictures) -> Objective:
    """The method's objective for these two networks and this training part. Raises `ShapeError`, `ConfigError`."""
    method, loss, classes = config.method, config.loss, len(part.classes)
    theirs = None if teacher.network is None else Shapes(*teacher.network.sizes(method.teacher_stages))
    shapes = Shapes(*student.sizes(method.stages), teacher=theirs, classes=classes, images=len(part.labels))
    return method.build(shapes, lambda dim: loss.build(dim, classes))


def check_whole_pictures(config: Config) -> None:
    """Raise `ConfigError` where `data.transform=max_side` meets what wants pictures of one size in training."""
    method = config.method
    if config.data.transform != "max_side" or method.views.augmentation != "none":
        return
    wants = {
        "method.views.mixup": method.views.mixup > 0,
        "optim.chunk": config.optim.chunk > 0,
        f"the stages of {method.name}": bool(method.stages),
        f"the teacher's view of {method.name}": method.teacher == "previous_epoch"
        or (method.teacher == "pretrained" and method.views.teacher),
    }
    found = [name for name, wanted in wants.items() if wanted]
    if found:
        raise ConfigError(
            f"data.transform=max_side gives training pictures of different sizes, and {', '.join(found)} wants one size: "
            "set data.transform=centre_crop, or take a method on tuples (symmetric, asymmetric)"
        )


def batches_per_epoch(config: Config, parts: Parts) -> int:
    """Batches in an epoch; 0 in a run that does not train. Raises `ConfigError` where it would have nothing to learn from."""
    method = config.method
    if not config.optim.epochs:
        return 0
    check_whole_pictures(config)
    if config.data.use == "unlabelled" and method.teacher == "none":
        raise ConfigError(
            f"data.use=unlabelled leaves {method.name} nothing to learn from, without a teacher; set data.use=labelled, or take "
            "a method that has one"
        )
    return iterations_per_epoch(parts.train, method.batches, method.tuples_per_epoch(torch.from_numpy(parts.labels)))


def device_pictures(config: Config, part: Pictures, device: torch.device) -> ResidentPictures | None:
    """The training part on the device (`data.device_views`); None, if that is set with a warning, where views are the host's."""
    data = config.data
    if not data.device_views:
        return None
    if config.method.views.augmentation == "none":
        warnings.warn(
            "data.device_views: method.views.augmentation=none shows the test transform, which the host makes as ever; unset it",
            stacklevel=2,
        )
        return None
    return resident(part, device, short_side=data.view_short_side, workers=data.workers)


def epoch_batches(
    config: Config,
    parts: Parts,
    resolutions: tuple[int, int | None],
    device: torch.device,
    pictures: ResidentPictures | None,
    *,
    epoch: int,
    tuples: Tensor | None,
    filters: tuple[str, str] = ("bilinear", "bilinear"),
) -> Iterator[Batch]:
    """The batches of an epoch, at the student's and the teacher's resolution, to be put on `device`; see `training_batches`."""
    return training_batches(
        parts.train,
        config.method.views,
        config.method.batches,
        student_resolution=resolutions[0],
        teacher_resolution=resolutions[1] if config.method.views.teacher else None,
        epoch=epoch,
        seed=config.seed,
        workers=config.data.workers,
        tuples=tuples,
        labels=torch.from_numpy(parts.labels),
        crop_ratio=config.data.crop_ratio,
        filters=filters,
        qualities=config.data.qualities,
        transform=config.data.transform,
        short_side=config.data.view_short_side,
        raw=device.type == "cuda",
        pictures=pictures,
    )

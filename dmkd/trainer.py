"""The one loop: `fit(config)` yields an `Epoch` after each epoch; no tracker, no scheduler, no branch on the method."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dmkd import space
from dmkd.checkpoint import State
from dmkd.config import Config
from dmkd.context import Context
from dmkd.data.batches import Batch, iterations_per_epoch, training_batches
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.splits import Parts, split
from dmkd.distill.base import Objective, Plan, Shapes, Step
from dmkd.distill.teachers import TEACHERS, NoTeacher
from dmkd.errors import ConfigError, DataError, TrainingError
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.protocol import Outcomes
from dmkd.models.embedder import EmbeddingNet, build_network
from dmkd.models.registry import count_gflops, count_parameters
from dmkd.optim import Precision, make_optimizer, make_schedule, optimizer_step, parameter_groups, steps_per_epoch
from dmkd.reproducible import copied, plain, random_state, restore_random, same_run, seed_all
from dmkd.terms import Terms


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training gave. `state` and `model` are those of this moment: use them before asking for the next epoch."""

    number: int
    """Epochs done; 0 where a network was only evaluated."""
    metrics: dict[str, float]
    """`train/<term>`, `val/<metric>`, `val_asymmetric/<metric>`, `test/...` (only when asked, at the end), `cost/...`."""
    outcomes: dict[str, Outcomes]
    """Outcome of every query, by the role that was measured: "val", "val_asymmetric", "test", "test_asymmetric"."""
    training: Training = field(repr=False)

    @property
    def model(self) -> EmbeddingNet:
        """The student."""
        return self.training.student

    @cached_property
    def state(self) -> State:
        """All that a bit-exact resume needs (a copy)."""
        return self.training.state()


def fit(config: Config, state: State | None = None, device: str | torch.device | None = None) -> Iterator[Epoch]:
    """Train `config.student` by `config.method` and yield an `Epoch` after each epoch; from `state`, go on where it stopped.

    The numbers after a resume equal those of an undisturbed run bit for bit on a CPU with equal threads. With
    `config.optim.epochs == 0` one `Epoch` with number 0 holds the evaluation of the untrained network.

    Raises `ConfigError`, `DataError`, `WeightsError`, `ShapeError` before the first step, `TrainingError` for what is not finite.
    """
    training = Training(config, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    if state is not None:
        training.restore(state)
    if config.optim.epochs == 0:
        yield training.evaluated({})
    while training.epoch < config.optim.epochs:
        yield training.evaluated(training.train_epoch())


class Training:
    """Everything a run holds between two epochs."""

    def __init__(self, config: Config, device: torch.device) -> None:
        seed_all(config.seed)
        self.config, self.device = config, device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.epoch = self.iteration = 0
        self.seconds = 0.0
        self.parts: Parts = split(load_dataset(config.data), config.data)
        if config.evaluation.test and self.parts.test is None:
            raise DataError(
                f"evaluation.test=true, but data set {config.data.name!r} has no test part: mark one in its split column"
            )
        self.teacher: NoTeacher = TEACHERS[config.method.teacher](config.teacher, device)
        self.student, self.resolution = self._student()
        batches = iterations_per_epoch(self.parts.train, config.method.batches) if config.optim.epochs else 0
        self.plan = Plan(config.optim.epochs, steps_per_epoch(batches, config.optim))
        self.objective = self._objective()
        groups = parameter_groups(self.student, self.objective.parameter_groups(config.optim.lr), config.optim)
        self.optimizer = make_optimizer(groups, config.optim)
        self.schedule = make_schedule(self.optimizer, config.optim, self.plan.iterations_per_epoch)
        self.precision = Precision(config.optim.precision, device)
        self._gallery: dict[str, Tensor] = {}

    def _student(self) -> tuple[EmbeddingNet, int]:
        wanted = self.config.student
        if wanted.checkpoint == "teacher":
            if self.teacher.network is None:
                raise ConfigError("student.checkpoint=teacher, but this method has no pretrained teacher to start from")
            student = self.teacher.network.clone(resolution=wanted.resolution, frozen_batchnorm=wanted.frozen_batchnorm)
        else:
            student = build_network(wanted)
        format_ = torch.channels_last if self.config.optim.channels_last else torch.contiguous_format
        return student.to(self.device, memory_format=format_), wanted.resolution  # type: ignore[call-overload]

    def _objective(self) -> Objective:
        method, loss = self.config.method, self.config.loss
        classes, images = len(self.parts.train.classes), len(self.parts.train.labels)
        teacher = None if self.teacher.network is None else Shapes(*self.teacher.network.sizes(method.stages))
        own = self.student.sizes(method.stages)
        shapes = Shapes(*own, teacher=teacher, classes=classes, images=images)
        return method.build(shapes, lambda dim: loss.build(dim, classes)).to(self.device)

    def train_epoch(self) -> dict[str, float]:
        """One epoch of optimisation. Returns the mean of each term, the loss, and what it cost."""
        started = time.monotonic()
        self.teacher.refresh(self.student)
        tuples = self.objective.on_epoch(self._context())
        self.student.train()
        self.objective.train()
        terms = Terms(self.device, self.epoch)
        batches = training_batches(
            self.parts.train,
            self.config.method.views,
            self.config.method.batches,
            student_resolution=self.resolution,
            teacher_resolution=self.teacher.resolution if self.config.method.views.teacher else None,
            epoch=self.epoch,
            seed=self.config.seed,
            workers=self.config.data.workers,
            tuples=tuples,
            crop_ratio=self.config.data.crop_ratio,
        )
        images = self._steps(batches, terms)
        self.epoch += 1
        taken = time.monotonic() - started
        self.seconds += taken
        return terms.means() | {"train/lr": self.optimizer.param_groups[0]["lr"], "cost/images_per_second": images / taken}

    def _context(self) -> Context:
        sides = {"student": Side(self.student, self.resolution)}
        if self.teacher.network is not None and self.teacher.resolution:
            sides["teacher"] = Side(self.teacher.network, self.teacher.resolution)
        measure = Measure(self.parts.train, self.config.data, self.config.evaluation, self.device)
        return Context(self.epoch, self.plan, self.config.seed, measure, sides)

    def _steps(self, batches: Iterator[Batch], terms: Terms) -> int:
        """Go through the epoch's batches; a last incomplete accumulation makes a step too. Returns the student's images."""
        images, accumulate, waiting = 0, self.config.optim.accumulate, 0
        total = self.plan.iterations
        with tqdm(
            total=total, initial=self.iteration, disable=None, unit="step", desc=f"epoch {self.epoch + 1}", leave=False
        ) as bar:
            for batch in batches:
                loss = self._loss(batch, terms) / accumulate
                self.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                images, waiting = images + len(batch.labels), waiting + 1
                if waiting == accumulate:
                    self._optimize(bar)
                    waiting = 0
            if waiting:
                self._optimize(bar)
        return images

    def _optimize(self, bar: Any) -> None:
        optimizer_step(self.optimizer, self.precision, self.config.optim)
        self.schedule.step()
        self.iteration += 1
        bar.update()

    def _loss(self, batch: Batch, terms: Terms) -> Tensor:
        batch = batch.to(self.device, channels_last=self.config.optim.channels_last)
        stages = self.config.method.stages
        with self.precision.autocast():
            teacher = self.teacher.features(batch.student, batch.teacher, stages)
            step = Step(
                labels=batch.labels,
                index=batch.index,
                view=batch.view,
                role=batch.role,
                student=self.student(batch.student, stages=stages),
                teacher=teacher,
                iteration=self.iteration,
                progress=self.epoch / max(1, self.config.optim.epochs),
                tuples=batch.tuples,
            )
            return terms.add(self.objective(step))

    def evaluated(self, metrics: dict[str, float]) -> Epoch:
        """The epoch just trained, measured on validation (each n epochs, and the last) and on test (the last, if asked)."""
        last = self.epoch >= self.config.optim.epochs
        outcomes: dict[str, Outcomes] = {}
        if self.parts.val is not None and (last or self.epoch % self.config.evaluation.every == 0):
            self._measure("val", self.parts.val, metrics, outcomes)
        if last and self.config.evaluation.test and self.parts.test is not None:
            self._measure("test", self.parts.test, metrics, outcomes)
            metrics["test_looks"] = 1.0
        return Epoch(self.epoch, metrics | self._costs(), outcomes, self)

    def _measure(self, name: str, part: Pictures, metrics: dict[str, float], outcomes: dict[str, Outcomes]) -> None:
        measure = Measure(part, self.config.data, self.config.evaluation, self.device)
        queries = measure.embed(Side(self.student, self.resolution))
        if not torch.isfinite(queries).all():
            raise TrainingError(
                f"embeddings of {name} are not finite after epoch {self.epoch}: lower optim.lr, or set optim.clip"
            )
        galleries = {name: queries}
        if self.config.method.gallery == "teacher" and self.teacher.network is not None and self.teacher.resolution:
            if name not in self._gallery:
                self._gallery[name] = measure.embed(Side(self.teacher.network, self.teacher.resolution))
            galleries[f"{name}_asymmetric"] = self._gallery[name]
        for role, gallery in galleries.items():
            scores, outcomes[role] = measure.compare(queries, gallery)
            metrics |= {f"{role}/{metric}": value for metric, value in scores.items()}

    def _costs(self) -> dict[str, float]:
        on_gpu = self.device.type == "cuda"
        costs = {"cost/train_seconds": self.seconds}
        if on_gpu:
            peak = torch.cuda.max_memory_allocated(self.device) / 2**20
            costs |= {"cost/gpu_seconds": self.seconds, "cost/peak_memory_mb": peak}
        return costs

    @cached_property
    def model_costs(self) -> dict[str, float]:
        """`model/gflops` of one query (a multiply-add counts one), `model/parameters`, `model/dim` of the student."""
        return {
            "model/gflops": count_gflops(self.student, self.resolution),
            "model/parameters": float(count_parameters(self.student)),
            "model/dim": float(self.student.sizes(())[0]),
        }

    def state(self) -> State:
        """A copy of all that a bit-exact resume needs."""
        payload = {
            "config": space.to_dict(self.config),
            "student": self.student.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {key: value for key, value in self.schedule.state_dict().items() if plain(value)},
            "scaler": self.precision.scaler.state_dict(),
            "random": random_state(self.device),
            "seconds": self.seconds,
        }
        return State(self.epoch, self.iteration, copied(payload))

    def restore(self, state: State) -> None:
        """Go on from `state`. Raises `CheckpointError` where it belongs to another configuration."""
        same_run(state.payload["config"], space.to_dict(self.config))
        self.epoch, self.iteration, self.seconds = state.epoch, state.iteration, float(state.payload["seconds"])
        for part in ("student", "objective", "optimizer", "schedule"):
            getattr(self, part).load_state_dict(state.payload[part])
        self.precision.scaler.load_state_dict(state.payload["scaler"])
        restore_random(state.payload["random"], self.device)

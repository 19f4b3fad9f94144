"""The one loop: `fit(config)` yields an `Epoch` after each epoch; no tracker, no scheduler, no branch on the method."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dmkd import pulse, space
from dmkd.assembly import batches_per_epoch, device_pictures, epoch_batches, make_objective, make_student
from dmkd.checkpoint import State
from dmkd.config import Config
from dmkd.context import Context
from dmkd.data.batches import Batch
from dmkd.data.datasets import load_dataset
from dmkd.data.resident import ResidentPictures
from dmkd.data.splits import Parts, split
from dmkd.distill.base import Plan, Step
from dmkd.distill.teachers import TEACHERS, NoTeacher
from dmkd.errors import DataError
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.protocol import Outcomes
from dmkd.grad_cache import GradientCache, WholeBatch
from dmkd.heap import Heap
from dmkd.models.embedder import EmbeddingNet
from dmkd.optim import (
    Precision,
    load_optimizer,
    make_optimizer,
    make_schedule,
    optimizer_step,
    parameter_groups,
    steps_per_epoch,
)
from dmkd.reproducible import copied, plain, random_state, restore_random, same_run, seed_all
from dmkd.scoring import Scoring, best_device, forget_peak, model_costs, run_costs
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
    training = Training(config, torch.device(device) if device else best_device())
    if state is not None:
        training.restore(state)
    try:
        if config.optim.epochs == 0:
            yield training.evaluated({})
        while training.epoch < config.optim.epochs:
            yield training.evaluated(training.train_epoch())
    finally:
        training.close()


class Training:
    """Everything a run holds between two epochs."""

    def __init__(self, config: Config, device: torch.device) -> None:
        seed_all(config.seed)
        self.config, self.device, self.heap = config, device, Heap(device)
        forget_peak(device)
        self.epoch = self.iteration = 0
        self.seconds = 0.0
        self.parts: Parts = split(load_dataset(config.data), config.data)
        if config.evaluation.test and self.parts.test is None and not config.evaluation.landmarks:
            raise DataError(
                f"evaluation.test=true, but data set {config.data.name!r} has no test part: mark one in its split column"
            )
        self.teacher: NoTeacher = TEACHERS[config.method.teacher](config.teacher, device)
        self.student, self.resolution = make_student(config, self.teacher, device), config.student.resolution
        self.batches_per_epoch = batches_per_epoch(config, self.parts)
        self._next: tuple[Config, int, Iterator[Batch]] | None = None
        self.ahead = True
        """Whether an epoch lets the next one's loading begin: not where epochs are timed one by one."""
        self.plan = Plan(config.optim.epochs, steps_per_epoch(self.batches_per_epoch, config.optim))
        self.objective = make_objective(config, self.student, self.teacher, self.parts.train).to(device)
        groups = parameter_groups(self.student, self.objective.parameter_groups(config.optim.lr), config.optim)
        self.optimizer = make_optimizer(groups, config.optim)
        self.schedule = make_schedule(self.optimizer, config.optim, self.plan.iterations_per_epoch)
        self.precision = Precision(config.optim.precision, device)
        self.passes = self._passes()
        self._score = Scoring(config, device, len(set(self.parts.train.labels.tolist())))

    def _passes(self) -> WholeBatch:
        method, chunk, compiled = self.config.method, self.config.optim.chunk, self.config.optim.compile
        if chunk:
            return GradientCache(self.student, method, chunk, self.precision, compiled=compiled)
        return WholeBatch(self.student, method, compiled=compiled)

    def train_epoch(self) -> dict[str, float]:
        """One epoch of optimisation. Returns the mean of each term, the loss, and what it cost."""
        started = time.monotonic()
        self.teacher.refresh(self.student)
        tuples = self.objective.on_epoch(self._context())
        self.student.train()
        self.objective.train()
        terms = Terms(self.device, self.epoch)
        batches = self._batches(self.epoch, tuples)
        images = self._steps(batches, terms)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the host runs ahead: it would stop the clock before the last steps are done
        self.epoch += 1
        taken = time.monotonic() - started
        self.seconds += taken
        told = self.parts.label_counts | {"cost/images_per_second": images / taken}
        return terms.means() | {"train/lr": self.optimizer.param_groups[0]["lr"]} | told

    def _batches(self, epoch: int, tuples: Tensor | None) -> Iterator[Batch]:
        """The batches of an epoch: those that were begun during the one before, or new ones."""
        begun, self._next = self._next, None
        if begun is not None and begun[:2] == (self.config, epoch):
            return begun[2]
        sizes = self.resolution, self.teacher.resolution
        shown = {"epoch": epoch, "tuples": tuples, "filters": self._filters()}
        return epoch_batches(self.config, self.parts, sizes, self.device, self.pictures, **shown)  # type: ignore[arg-type]

    def _begin_next(self) -> None:
        """Let the loading processes of the next epoch begin: a fast GPU would wait for them, and for their first batches."""
        known = self.config.method.batches.kind != "tuples"  # these are mined by the network as it will be then
        if self.ahead and known and self.config.data.workers and self.pictures is None and self.epoch + 1 < self.plan.epochs:
            with suppress(OSError):  # no process to be had: the next epoch says so, this one is not lost
                self._next = (self.config, self.epoch + 1, self._batches(self.epoch + 1, None))

    def close(self) -> None:
        """The run is over: what was begun for an epoch that does not come ends, and memory is given back."""
        self._next = None
        self.heap.release()

    def _filters(self) -> tuple[str, str]:
        """Of the student's and of the teacher's test transform, which pictures that are not augmented see in training too."""
        teacher = self.teacher.network or self.student
        return self.student.preprocess.interpolation, teacher.preprocess.interpolation

    @cached_property
    def pictures(self) -> ResidentPictures | None:
        """The training pictures on the device; None where views are made on the host."""
        return device_pictures(self.config, self.parts.train, self.device)

    def _context(self) -> Context:
        sides = {"student": Side(self.student, self.resolution)}
        if (teacher := self._teacher_side()) is not None:
            sides["teacher"] = teacher
        measure = Measure(self.parts.train, self.config.data, self.config.evaluation, self.device)
        labels, features = torch.from_numpy(self.parts.labels), self.config.teacher.features
        return Context(self.epoch, self.plan, self.config.seed, measure, sides, labels=labels, features=features)

    def _teacher_side(self) -> Side | None:
        network, resolution = self.teacher.network, self.teacher.resolution
        return Side(network, resolution, "teacher") if network is not None and resolution else None

    def _steps(self, batches: Iterator[Batch], terms: Terms) -> int:
        """Go through the epoch's batches; a last incomplete accumulation makes a step too. Returns the student's images."""
        images, accumulate, waiting = 0, self.config.optim.accumulate, 0
        # About then each process makes its last batch, and the others are there.
        begin = max(1, self.batches_per_epoch - self.config.data.workers)
        told: dict[str, Any] = {"unit": "step", "desc": f"epoch {self.epoch + 1}", "leave": False, "disable": None}
        with tqdm(total=self.plan.iterations, initial=self.iteration, **told) as bar:
            for taken, batch in enumerate(batches, 1):
                if taken == begin:
                    self._begin_next()
                loss = self._loss(batch, terms) / accumulate
                self.passes.backward(self.precision.scaler.scale(loss))
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
        self.heap.after_step()
        pulse.beat()
        bar.update()

    def _loss(self, batch: Batch, terms: Terms) -> Tensor:
        batch = batch.to(self.device, channels_last=self.config.optim.channels_last)
        with self.precision.autocast():
            teacher = self.passes.teacher(self.teacher, batch.student, batch.teacher)
            step = Step(
                labels=batch.labels,
                index=batch.index,
                view=batch.view,
                role=batch.role,
                student=self.passes.student(batch.student, batch.sizes),
                teacher=teacher,
                iteration=self.iteration,
                progress=self.epoch / max(1, self.config.optim.epochs),
                tuples=batch.tuples,
            )
            return terms.add(self.objective(step))

    def evaluated(self, metrics: dict[str, float]) -> Epoch:
        """The epoch just trained, measured on validation (each n epochs, and the last) and on test (the last, if asked)."""
        last = self.epoch >= self.config.optim.epochs
        parts = {}
        if last or self.epoch % self.config.evaluation.every == 0:
            parts["val"] = self.parts.val
        if last and self.config.evaluation.train:
            parts["train"] = self.parts.train
        if last and self.config.evaluation.test:
            parts["test"] = self.parts.test
        outcomes: dict[str, Outcomes] = {}
        for name, part in parts.items():
            if part is not None:
                student = Side(self.student, self.resolution)
                scores, told = self._score(name, part, self.epoch, student, self._teacher_side())
                metrics, outcomes = metrics | scores, outcomes | told
        if last and self.config.evaluation.test:
            scores, told = self._score.landmarks(Side(self.student, self.resolution), self._teacher_side())
            metrics, outcomes = metrics | scores | {"test_looks": 1.0}, outcomes | told
        return Epoch(self.epoch, metrics | self.parts.skipped | run_costs(self.seconds, self.device), outcomes, self)

    @cached_property
    def model_costs(self) -> dict[str, float]:
        """What the student costs (`scoring.model_costs`); `model/gallery_resolution` where its teacher embeds the gallery."""
        wall = self._teacher_side() if self.config.method.gallery == "teacher" else None
        told = {} if wall is None else {"model/gallery_resolution": float(wall.resolution)}
        return model_costs(self.student, self.resolution) | told

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
        for part in ("student", "objective", "schedule"):
            getattr(self, part).load_state_dict(state.payload[part])
        load_optimizer(self.optimizer, state.payload["optimizer"])
        if state.payload["scaler"]:  # a state of a CPU has none to give to a GPU
            self.precision.scaler.load_state_dict(state.payload["scaler"])
        restore_random(state.payload["random"], self.device)

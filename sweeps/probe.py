"""How long a run takes here: a few steps of the real trainer on the real pictures, and one look at part of a test."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dmkd.checkpoint import save_model
from dmkd.config import Config
from dmkd.data.splits import Parts
from dmkd.evaluation.measure import Measure, Side
from dmkd.models.embedder import build_network
from dmkd.scoring import best_device
from dmkd.space import override
from dmkd.trainer import Training
from sweeps.estimate import Load, work

STEPS = 6
"""Steps that are timed, after one that warms up."""
LARGEST = 2e12
"""Multiply-adds of a timed batch on a CPU: larger batches are measured smaller, and scaled."""
LOOKED_AT = 448
"""Pictures that are embedded to time a test."""


@dataclass(frozen=True)
class Speed:
    """What was measured of one kind of run, in seconds."""

    setup: float
    """Building networks and reading the data set's names; features that are stored before the first epoch."""
    epoch: float
    """What an epoch takes beside its steps: mining, above all."""
    step: float
    embedded: float
    """Of one picture under the test transform."""
    compared: float
    """Scores of a test, for each pair of pictures."""

    def seconds(self, load: Load) -> float:
        """A whole run of this kind."""
        config, size = load.config, load.size
        looks = -(-config.optim.epochs // config.evaluation.every)
        tests = [size.val] * looks + [size.test] * config.evaluation.test
        measured = sum(count * self.embedded + count**2 * self.compared for count in tests)
        return self.setup + config.optim.epochs * self.epoch + work(load).steps * self.step + measured


def probe(load: Load, parts: Parts, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Time the run of `load` on this machine. Teachers are random networks of the same size: time does not depend on weights.

    Raises what the trainer raises: a plan that cannot be run is better known now.
    """
    device = best_device()
    with _teacher(load) as checkpoint:
        config, scale = _small(load, checkpoint, device)
        started = clock()
        with closing(Training(config, device)) as training:
            setup, training.ahead = clock() - started, False
            times = [_epoch(training, config, steps, clock) for steps in (1, 1, 1 + STEPS)] if config.optim.epochs else [0.0] * 3
            embedded, compared = _test(training, config, clock)
    step = max(0.0, times[2] - times[1]) / STEPS
    return Speed(setup, max(0.0, times[1] - step), step * scale, embedded, compared)


def _small(load: Load, checkpoint: str, device: torch.device) -> tuple[Config, float]:
    """The run with random weights, on a CPU with a batch that takes seconds at most; how much larger the real batch is."""
    method = load.config.method
    changes = {"student.weights": "none", "teacher.features": "none", "optim.schedule": "constant"}
    changes |= {"teacher.checkpoint": checkpoint} if checkpoint else {}
    batches, per_step = method.batches, work(load).multiply_adds / max(1, work(load).steps)
    size = batches.size
    if device.type == "cpu" and per_step > LARGEST:
        least = 2 * batches.images_per_class if batches.kind == "classes" else 2
        size = max(least, int(size * LARGEST / per_step) // batches.images_per_class * batches.images_per_class)
    config = override(load.config, changes | {"method.batches.size": size, "data.workers": load.config.data.workers})
    return config, batches.size / size


def _epoch(training: Training, config: Config, steps: int, clock: Callable[[], float]) -> float:
    """Seconds of an epoch of so many optimizer steps' batches."""
    training.config = override(config, {"method.batches.iterations": steps, "optim.accumulate": 1})
    started = clock()
    training.train_epoch()
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
    return clock() - started


def _test(training: Training, config: Config, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of an embedded picture, and of a compared pair; both after one that warms up."""
    part = training.parts.val or training.parts.test or training.parts.train
    part = part.part(range(min(LOOKED_AT, len(part))))
    measure = Measure(part, config.data, config.evaluation, training.device)
    side = Side(training.student, training.resolution)
    measure.embed(side, list(range(min(config.evaluation.batch_size, len(part)))))
    started = clock()
    embedded = measure.embed(side)
    taken = clock() - started
    measure.compare(embedded, embedded)  # the first time libraries are loaded, and a card's kernels: that grows with no pair
    started = clock()
    measure.compare(embedded, embedded)
    return taken / len(part), (clock() - started) / len(part) ** 2


@contextmanager
def _teacher(load: Load) -> Iterator[str]:
    """A checkpoint of a random network of the teacher's architecture, for as long as the probe takes; empty without a teacher."""
    if load.config.method.teacher != "pretrained" or load.teacher is None:
        yield load.config.teacher.checkpoint if load.config.method.teacher == "pretrained" else ""
        return
    with tempfile.TemporaryDirectory(prefix="dmkd-probe-") as folder:
        network = override(load.teacher, {"weights": "none", "checkpoint": ""})
        save_model(build_network(network), Path(folder) / "teacher", resolution=network.resolution)
        yield str(Path(folder) / "teacher")

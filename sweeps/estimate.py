"""What a plan costs before it is run: steps, pictures, hours, disk; reckoned by arithmetic (`probe` measures)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from dmkd.config import Config
from dmkd.data.samplers import epoch_length
from dmkd.models import Network
from dmkd.models.embedder import build_network
from dmkd.models.registry import count_gflops, count_parameters
from sweeps.sizes import Size

GPU_RATE = 9e12
"""Multiply-adds that a recent data-centre GPU sustains a second when it trains a ResNet in fp32 (TF32)."""
DECODED = 150.0
"""Training crops that one loading process decodes a second, from JPEG files of half a megapixel."""
COUNTED_AT = 224
LANDMARK_TESTS = 100_000
"""Training pictures that cost what two landmark tests do: 11,500 of 1024 px over three scales."""


@dataclass(frozen=True)
class Load:
    """Runs of one kind: what is trained, on how much, how often."""

    label: str
    config: Config
    size: Size
    runs: int
    teacher: Network | None = None
    """Of a pretrained teacher; None: the method has none."""


@dataclass(frozen=True)
class Work:
    """What one run does."""

    steps: int
    """Batches, over all epochs."""
    images: int
    """Pictures that the student trains on, over all epochs, views counted."""
    decoded: int
    """Pictures that are loaded, those of mining and tests included; with `data.device_views` a training picture once."""
    multiply_adds: float


def work(load: Load) -> Work:
    """Steps, pictures and multiply-adds of one run: a training image costs three forward passes, a teacher's image one."""
    config, size, method = load.config, load.size, load.config.method
    student = gflops(config.student) * 1e9
    tests = _tests(config, size)
    if not config.optim.epochs:
        return Work(0, 0, tests, tests * student)
    batches, epochs = method.batches, config.optim.epochs
    steps = epoch_length(batches, size.train, size.classes, size.train // batches.images_per_class)
    images = steps * batches.size * columns(config) * method.views.per_image
    mined = _mined(load, steps)
    teacher = {"previous_epoch": student, "pretrained": gflops(load.teacher) * 1e9 if load.teacher else student}
    theirs = teacher.get(method.teacher, 0.0)
    shown = images if method.teacher != "none" and method.views.teacher else 0
    stored = size.train if _stores(config) else 0
    passes = (4 if config.optim.chunk else 3) * images * student + shown * theirs + mined * student
    drawn = size.train if _on_device(config) else images * epochs
    loaded = drawn + mined * epochs + tests + stored
    return Work(steps * epochs, images * epochs, loaded, passes * epochs + tests * student + stored * theirs)


def _mined(load: Load, steps: int) -> int:
    """Pictures that the student embeds before an epoch: the anchors and, without a teacher that has stored it, the pool."""
    method = load.config.method
    pool = getattr(method, "pool", 0)
    if not pool or not getattr(method, "negatives", True):
        return 0
    return steps * method.batches.size + (min(pool, load.size.train) if method.teacher == "none" else 0)


def columns(config: Config) -> int:
    """Pictures that are drawn for one place in a batch: of a tuple its leading columns, or all of them."""
    batches = config.method.batches
    if batches.kind != "tuples":
        return 1
    whole = batches.images_per_class if batches.images_per_class > 1 else 2 + getattr(config.method, "negative_count", 5)
    return batches.columns or whole


def _tests(config: Config, size: Size) -> int:
    """Pictures that are embedded for validation, over all epochs, and for the test."""
    landmarks = LANDMARK_TESTS if config.evaluation.test and config.evaluation.landmarks else 0
    looks = -(-config.optim.epochs // config.evaluation.every) if config.optim.epochs else 1
    return looks * size.val + (size.test if config.evaluation.test else 0) + landmarks


def seconds(load: Load) -> float:
    """One run on one GPU, by arithmetic: loading and computing overlap with loading processes, and add up without them."""
    done = work(load)
    computing, loading = done.multiply_adds / GPU_RATE, done.decoded / (DECODED * max(1, load.config.data.workers))
    return max(computing, loading) if load.config.data.workers else computing + loading


def gflops(network: Network) -> float:
    """1e9 multiply-adds of an image, to a few percent: counted at one size, scaled by area."""
    counted, _ = _counted(network.backbone, network.dim, network.projection)
    return counted * (network.resolution / COUNTED_AT) ** 2


def parameters(network: Network) -> int:
    """Parameters of a network."""
    return _counted(network.backbone, network.dim, network.projection)[1]


@cache
def _counted(backbone: str, dim: int, projection: str) -> tuple[float, int]:
    network = Network(backbone=backbone, weights="none", dim=dim, projection=projection, resolution=COUNTED_AT)
    with torch.device("meta"):
        net = build_network(network)
    return count_gflops(net, COUNTED_AT), count_parameters(net)


def disk(loads: Sequence[Load], at_once: int = 1) -> dict[str, float]:
    """Bytes of what stays (a checkpoint in the storage and one in the tracker a run) and of what is needed while it runs.

    A resumable state is the weights, two moments of Adam's, and the last two states are kept.
    """
    stay = sum(load.runs * 2 * 4 * parameters(load.config.student) for load in loads)
    largest = max((parameters(load.config.student) for load in loads), default=0)
    stored = [load.size.train * 4 * (load.config.student.dim or 2048) for load in loads if _stores(load.config)]
    return {"checkpoints": float(stay), "states": float(2 * 3 * 4 * largest * at_once), "features": float(max(stored, default=0))}


def _stores(config: Config) -> bool:
    """Whether the method keeps its teacher's features of all training pictures."""
    return config.method.teacher == "pretrained" and not config.method.views.teacher


def _on_device(config: Config) -> bool:
    """Whether training pictures lie on the device, and views of them are made there (`dmkd.assembly.device_pictures`)."""
    return config.data.device_views and config.method.views.augmentation != "none"


def total(loads: Sequence[Load], each: Callable[[Load], float] = seconds) -> float:
    """Seconds of all runs."""
    return sum(load.runs * each(load) for load in loads)

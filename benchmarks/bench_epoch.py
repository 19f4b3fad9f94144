"""A whole epoch of each method, pictures read by the real loader, against the epoch without distillation.

    python benchmarks/bench_epoch.py            # minutes; ResNet-50, 4 batches of 32 at 64 pixels, on a GPU 50 of 112 at 224
    python benchmarks/bench_epoch.py 64x96 8    # another batch and side, another number of batches an epoch

The pictures are those of bench_input.py: JPEG files of 500 x 375. Epochs are made in turn, after one of each that is not counted,
in which the pictures are decoded; evaluation is no part of them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from bench_input import pictures
from ratio import device, heading, on_gpu, record, timed

from dmkd.config import Config
from dmkd.data import Data
from dmkd.optim import Optim
from dmkd.space import override
from dmkd.trainer import Training

REPEATS = 3
METHODS = {
    "plain": {"method.name": "metric_learning"},
    "S2SD-MSDF": {"method.preset": "msdf"},
    "PSD": {"method.preset": "psd"},
    "OBD-SD": {"method.preset": "obd_sd"},
}
MORE = {
    "PSD, teacher.precision=bf16": ("PSD", {"teacher.precision": "bf16"}),
    "OBD-SD, teacher.precision=bf16": ("OBD-SD", {"teacher.precision": "bf16"}),
}


Size = tuple[int, int, int]
"""Pictures in a batch, their side, batches in an epoch."""


def training(root: str, choice: dict[str, object], changes: dict[str, object], size: Size) -> Training:
    """A run whose epochs are asked for one by one."""
    batch, side, batches = size
    base = Config(data=Data(root=root, validation=0.0, workers=4 if on_gpu() else 0), optim=Optim(epochs=REPEATS + 2))
    rest = {"student.resolution": side, "method.batches.size": batch, "method.batches.iterations": batches}
    if choice.get("method.preset") == "msdf":
        rest["method.feature_delay"] = 0
    low = {"optim.precision": "bf16"} if on_gpu() else {}
    weights = {"student.weights": "none"}
    return Training(override(override(base, choice), {**rest, **low, **weights, **changes}), torch.device(device()))


def on_pictures(measure: Callable[[str, Size], None], size: Size) -> None:
    """`measure` on the folder of bench_input.py's pictures, one thread, nothing left behind."""
    torch.set_num_threads(1)
    heading()
    folder = Path(tempfile.mkdtemp(prefix="dmkd-bench-"))
    os.environ["DMKD_CACHE"] = str(folder / "cache")
    try:
        measure(str(pictures(folder / "pictures").root), size)
    finally:
        shutil.rmtree(folder)


def measure(root: str, size: Size) -> None:
    rows: dict[str, tuple[dict[str, object], dict[str, object]]] = {name: (dict(choice), {}) for name, choice in METHODS.items()}
    if not on_gpu():
        rows |= {name: (dict(METHODS[method]), dict(changes)) for name, (method, changes) in MORE.items()}
    runs = {name: training(root, *how, size) for name, how in rows.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            run.ahead = False  # nothing of it is to go on beside the others
            wall, cpu = timed(run.train_epoch)
            if repeat:
                seconds[name].append(wall if on_gpu() else cpu)
    for name in list(rows)[1:]:
        record(
            f"epoch of {name}, ResNet-50, {size[2]} batches of {size[0]} at {size[1]}",
            seconds[name],
            seconds["plain"],
            peer_name="the epoch without distillation",
            clock="wall" if on_gpu() else "cpu",
            note="real loader, JPEG files of 500 x 375",
        )


if __name__ == "__main__":
    sizes = [word for word in sys.argv[1:] if "x" in word]
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    batch, side = map(int, sizes[0].split("x")) if sizes else (112, 224) if on_gpu() else (32, 64)
    on_pictures(measure, (batch, side, numbers[0] if numbers else 50 if on_gpu() else 4))

"""What share of a step waits for data: epochs with the real input, against as many steps on a batch that is there already.

    python benchmarks/bench_waiting.py            # on a GPU machine, minutes: ResNet-50, batch 112 at 224, bf16, 50 steps
    python benchmarks/bench_waiting.py 8x32 3     # another batch and side, another number of steps: anywhere, to see it run

Input is made by 4 loading processes on the host, or on the device (`data.device_views`). The pictures are those of
bench_input.py, few enough to stay in memory. An epoch is to take at most 1 / 0.97 of its steps alone: 3 % of a step
waiting.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from unittest import mock

from bench_epoch import Size, on_pictures, training
from ratio import not_measured, on_gpu, record, timed

from dmkd import trainer
from dmkd.assembly import epoch_batches
from dmkd.data.batches import Batch
from dmkd.trainer import Training

REPEATS = 5
ARMS: dict[str, dict[str, object]] = {
    "4 loading processes": {"data.workers": 4},
    "views on the device": {"data.workers": 0, "data.device_views": True},
}
NAME = "input: an epoch of ResNet-50 with {arm}, over its steps alone"
GOAL = round(1 / 0.97, 4)


def staged(run: Training) -> Batch:
    """A batch of the run as a step takes it."""
    sizes = run.resolution, run.teacher.resolution
    batches = epoch_batches(run.config, run.parts, sizes, run.device, run.pictures, epoch=0, tuples=None)
    return next(batches).to(run.device, channels_last=run.config.optim.channels_last)


def repeated(batch: Batch, times: int, *_: object, **__: object) -> Iterator[Batch]:
    return itertools.repeat(batch, times)


def measure(root: str, size: Size) -> None:
    """Time both in turn, after one epoch of each that is not counted.

    A timed epoch with real input follows upon another one, whose end is where its loading begins, as in training.
    """
    for arm, changes in ARMS.items():
        run, still = (
            training(root, {"method.name": "metric_learning"}, {"optim.epochs": 3 * REPEATS, **changes}, size) for _ in range(2)
        )
        there = staged(run)
        whole: list[float] = []
        alone: list[float] = []
        for _ in range(REPEATS + 1):
            run.ahead = True
            run.train_epoch()
            run.ahead = False  # loading that it begins would work beside the steps that are timed next
            whole.append(timed(run.train_epoch)[0])
            with mock.patch.object(trainer, "epoch_batches", side_effect=partial(repeated, there, size[2])):
                alone.append(timed(still.train_epoch)[0])
        waiting = 1 - statistics.median(alone[1:]) / statistics.median(whole[1:])
        speed = size[0] * size[2] / statistics.median(whole[1:])
        print(f"{arm}: {speed:.0f} images/s, {waiting:.1%} of a step waits")
        record(NAME.format(arm=arm), whole[1:], alone[1:], peer_name="its steps on a batch that is there", goal=GOAL)


if __name__ == "__main__":
    sizes = [word for word in sys.argv[1:] if "x" in word]
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    batch, side = map(int, sizes[0].split("x")) if sizes else (112, 224)
    if sizes or on_gpu():
        on_pictures(measure, (batch, side, numbers[0] if numbers else 50))
    else:
        for arm in ARMS:
            not_measured(NAME.format(arm=arm), goal=GOAL, command="python benchmarks/bench_waiting.py", why="no GPU here")

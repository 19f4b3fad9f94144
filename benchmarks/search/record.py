"""Record the grid's learning curves: the real trainer on the signs, one process, resumable.

    nice -n 19 python -m benchmarks.search.record             # about 15 core-minutes; Ctrl-C, and the same again goes on
    nice -n 19 python -m benchmarks.search.record --tones     # a warm start's source on another data set, some minutes

The network is EfficientNet-Lite0 with ImageNet's weights, of which the embedding layer alone trains, on pictures without
augmentation. What the frozen backbone gives of a picture then never changes: it is computed once and looked up, which makes a run
a hundred times cheaper and changes no number beyond rounding (tests/benchmarks/test_search_record.py).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.search.grid import CURVES, TONES, Point, points, read, toned_points

METRICS = ("val/recall_at_1", "val/map")


class Lookup:
    """Pooled features of the frozen backbone, by resolution and picture; an "image" is then the number of its picture."""

    def __init__(self) -> None:
        self._features: dict[int, Tensor] = {}
        self._places: dict[str, int] = {}

    def number(self, part: Any, positions: Any, resolution: int) -> Tensor:
        """[B, 3, 1, 1]: the rows of pictures, and the resolution that they are asked for at."""
        rows = [self._places.setdefault(part.paths[place], len(self._places)) for place in positions]
        told = torch.tensor([[row, resolution, 0] for row in rows], dtype=torch.float32)
        return told.reshape(-1, 3, 1, 1)

    def learn(self, network: Any, part: Any, data: Any, resolution: int) -> None:
        """Run the whole backbone once over the pictures of a part."""
        from dmkd.data.batches import test_batches

        batches = test_batches(
            part, resolution, crop_ratio=data.crop_ratio, batch_size=128, interpolation=network.preprocess.interpolation
        )
        with torch.no_grad():
            maps = torch.cat([network.eval()(batch).feature_map.mean((2, 3)) for batch in batches])
        numbers = self.number(part, range(len(part)), resolution)[:, 0, 0, 0].long()
        known = self._features.get(resolution, torch.zeros(4096, maps.shape[1]))
        known[numbers] = maps
        self._features[resolution] = known

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, 1, 1] -> [B, C, 1, 1]."""
        resolution = int(images[0, 1])
        return self._features[resolution][images[:, 0, 0, 0].long()][:, :, None, None]

    def knows(self, resolution: int) -> bool:
        """Whether `learn` was called for it."""
        return resolution in self._features


def patch(lookup: Lookup) -> None:
    """Pictures become their numbers, and the frozen backbone a table."""
    from dmkd import assembly, trainer
    from dmkd.data.datasets import load_dataset
    from dmkd.data.rows import RowMaker, TestRows
    from dmkd.models.embedder import build_network
    from dmkd.models.from_timm import TimmBackbone
    from dmkd.models.preprocess import Normalize

    kept, whole, plain = cache(build_network), TimmBackbone.trunk, Normalize.forward

    def network(asked: Any) -> Any:
        made = copy.deepcopy(kept(asked))
        made.head.linear.reset_parameters()  # drawn anew, by the run's own seed
        return made

    def images(self: RowMaker, index: Any, places: Any) -> tuple[Tensor, Tensor]:
        told = lookup.number(self.part, index, self.student_size)
        return told, told

    def chunk(self: TestRows, number: int) -> tuple[Tensor, dict[Any, Any]]:
        return lookup.number(self.part, self.chunks[number], self.resolution), {}

    numbered = 1
    TimmBackbone.trunk = lambda self, x: lookup(x) if x.shape[-1] == numbered else whole(self, x)  # type: ignore[method-assign]
    Normalize.forward = lambda self, x: x if x.shape[-1] == numbered else plain(self, x)  # type: ignore[method-assign]
    RowMaker.images, TestRows.__call__ = images, chunk  # type: ignore[method-assign, assignment]
    trainer.load_dataset, assembly.build_network = cache(load_dataset), network


def prepare(points: Sequence[Point]) -> None:
    """Learn every resolution of the grid, then patch."""
    from dmkd.data.datasets import load_dataset
    from dmkd.data.splits import split
    from dmkd.models.embedder import build_network

    lookup = Lookup()
    for point in points:
        config = point.config()
        if not lookup.knows(config.student.resolution):
            network, parts = build_network(config.student), split(load_dataset(config.data), config.data)
            for part in (parts.train, parts.val):
                lookup.learn(network, part, config.data, config.student.resolution)
    patch(lookup)


def curve(point: Point) -> dict[str, Any]:
    """Train one configuration: its scores after each epoch; cut where the loss diverged."""
    from dmkd.errors import TrainingError
    from dmkd.trainer import fit

    started, scores = time.process_time(), {metric: [] for metric in METRICS}  # type: dict[str, list[float]]
    failed = ""
    try:
        for epoch in fit(point.config(), device="cpu"):
            for metric in METRICS:
                scores[metric].append(round(epoch.metrics[metric], 5))
    except TrainingError as error:
        failed = str(error)
    seconds = round(time.process_time() - started, 2)
    record = {"key": point.key, "method": point.method, "values": dict(point.values), "seed": point.seed}
    return record | scores | {"seconds": seconds} | ({"failed": failed} if failed else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--most", type=int, default=None, help="curves to record now")
    parser.add_argument("--tones", action="store_true", help="those of the other data set")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = toned_points() if options.tones else points()
    prepare(asked)
    options.out = options.out or (TONES if options.tones else CURVES)
    done = read(options.out)
    with options.out.open("a", encoding="utf-8") as file:
        for point in [one for one in asked if one.key not in done][: options.most]:
            file.write(json.dumps(curve(point)) + "\n")
            file.flush()


if __name__ == "__main__":
    main()

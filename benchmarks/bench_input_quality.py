"""Does the fast input cost retrieval quality? Training on views by Pillow against views by dmkd's loader, seeds in pairs.

    python benchmarks/bench_input_quality.py                  # a few minutes: signs, EfficientNet-Lite0 at 48 pixels, 5 seeds
    python benchmarks/bench_input_quality.py manifest.csv     # other pictures; --seeds 10 for a closer look, --arm for one alone

Draws, batches, starting weights and the test transform (Pillow's in every arm) are the same in a pair: only the pixels of the
training views differ. Scores are of validation classes, which are never trained on; intervals are Student's, of the differences.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from PIL import Image
from ratio import collect, heading

from dmkd.config import Config
from dmkd.data import Data, rows
from dmkd.data.batches import Batches
from dmkd.data.views import Pixels, apply_view
from dmkd.distill.metric_learning import MetricLearning
from dmkd.evaluation import Evaluation
from dmkd.models import Network
from dmkd.optim import Optim
from dmkd.space import override
from dmkd.trainer import fit
from tracking.student import quantile

SCORES = ("val/mean_average_precision_at_r", "val/recall_at_1")
RENDER, SHORT = 128, 64
"""Sides of the drawn signs, and of the copies that the third arm cuts its views from."""


def by_pillow(picture: Pixels, draw: object, size: int) -> Pixels:
    """A training view as everybody makes it: cropped and resized by Pillow."""
    return apply_view(Image.fromarray(np.asarray(picture)), draw, size)  # type: ignore[arg-type]


ARMS: dict[str, tuple[Callable[..., Pixels], dict[str, object]]] = {
    "Pillow": (by_pillow, {}),
    "dmkd": (apply_view, {}),
    "dmkd, view_short_side": (apply_view, {"data.view_short_side": SHORT}),
    "dmkd, device_views": (apply_view, {"data.device_views": True}),
}


def config(manifest: str) -> Config:
    """Three epochs of a pretrained EfficientNet-Lite0."""
    source = {"name": "manifest", "root": manifest} if manifest else {"name": "signs", "render_size": RENDER}
    return Config(
        data=Data(validation=0.4, crop_ratio=1.0, **source),  # type: ignore[arg-type]
        student=Network(backbone="timm/tf_efficientnet_lite0", dim=128, resolution=48),
        method=MetricLearning(batches=Batches(size=112, replacement=False, iterations=4)),
        optim=Optim(epochs=3, lr=3e-4),
        evaluation=Evaluation(nmi=False, every=3),
    )


def trained(base: Config, arm: str, seed: int) -> dict[str, float]:
    """Scores of one run."""
    view, changes = ARMS[arm]
    with mock.patch.object(rows, "apply_view", view):
        *_, last = fit(override(base, {"seed": seed, **changes}))
    return {name: last.metrics[name] for name in SCORES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("manifest", nargs="?", default="")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arm", choices=list(ARMS)[1:], help="beside Pillow's; all, unless given")
    asked = parser.parse_args()
    arms = ["Pillow", asked.arm] if asked.arm else list(ARMS)
    torch.set_num_threads(1)
    heading()
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for seed in range(asked.seeds):
        for arm in arms:
            found[arm].append(trained(config(asked.manifest), arm, seed))
            told = ", ".join(f"{name} {value:.4f}" for name, value in found[arm][-1].items())
            print(f"seed {seed}, {arm}: {told}", flush=True)
    for arm in arms[1:]:
        for name in SCORES:
            compare(arm, name, *([run[name] for run in found[side]] for side in (arm, "Pillow")))


def compare(arm: str, name: str, ours: list[float], theirs: list[float]) -> None:
    """Print and record the mean paired difference and its 95 % interval, in points."""
    apart = [100 * (a - b) for a, b in zip(ours, theirs, strict=True)]
    mean, spread = statistics.mean(apart), statistics.stdev(apart)
    half = quantile(0.975, len(apart) - 1) * spread / len(apart) ** 0.5
    seeds = 100 * statistics.stdev(theirs)
    verdict = "within noise" if abs(mean) <= half else "DIFFERS"
    interval = f"{mean:+.2f} points ({mean - half:+.2f} to {mean + half:+.2f})"
    print(f"{arm} against Pillow, {name}: {interval}, seeds spread by {seeds:.2f}: {verdict}")
    row = dict.fromkeys(("peer", "limit", "ratio", "goal"))
    told = {"unit": "points", "spread": [mean - half, mean + half], "repetitions": [len(ours), len(theirs)]}
    note = f"difference in points and its 95 % interval over seeds; seeds of the peer spread by {seeds:.2f}: {verdict}"
    named = f"retrieval quality of the input: {arm}, {name}"
    collect({"name": named, "ours": mean, "peer_name": "Pillow", "note": note} | row | told)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Which student for which cost: a Pareto search over backbone, resolution and embedding dimension on the signs.

Two backbones (EfficientNet-Lite0 with ImageNet's weights, timm's smallest EfficientNet from scratch), 24 to 64 pixels, 16 to 128
dimensions, trained by the multi-similarity loss alone: validation recall at 1 against GFLOPs of a query. The result is the front,
printed at the end and written to `pareto.json` beside the study; its ends and a point between go to the final stage.

    python sweeps/signs_front.py
    python sweeps/signs_front.py --objective latency --objective dim       # other costs

Cost: 10 CPU-minutes of training; 14 minutes beside other work, one trial at a time (`--max-concurrent 1`).
Pictures: OpenMoji (CC BY-SA 4.0), Twemoji (CC BY 4.0); they are rendered here.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.config import Config
from dmkd.data import Data
from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.distill.metric_learning import MetricLearning
from dmkd.evaluation import Evaluation
from dmkd.losses import MultiSimilarity
from dmkd.models import Network
from dmkd.optim import Optim
from dmkd.space import Choice
from sweeps.space import Space, Values
from sweeps.sweep import sweep

LARGE, SMALL = "timm/tf_efficientnet_lite0", "timm/test_efficientnet"

BATCHES = Batches(size=112, images_per_class=2, replacement=False, iterations=10)

BASE = Config(
    data=Data(name="signs", crop_ratio=1.0),
    student=Network(backbone=LARGE, dim=64, resolution=48, frozen_batchnorm=False),
    loss=MultiSimilarity(),
    method=MetricLearning(batches=BATCHES, views=Views(min_scale=0.5)),
    optim=Optim(epochs=4, lr=5e-4),
    evaluation=Evaluation(nmi=False),
)

SPACE: Space = {
    "student.backbone": Choice((LARGE, SMALL)),
    # There are no ImageNet weights of the small one that come with a package.
    "student.weights": Choice(("none",), when=("student.backbone", SMALL)),
    "student.resolution": Choice((24, 32, 48, 64)),
    "student.dim": Choice((16, 32, 64, 128)),
}
POINTS: list[Values] = [
    {"student.resolution": 32},
    {"student.resolution": 24, "student.dim": 32},
    {"student.backbone": SMALL, "student.weights": "none"},
]

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not any(one.startswith("--objective") for one in arguments):
        arguments += ["--objective", "gflops"]
    sweep(
        "signs_front",
        BASE,
        SPACE,
        description=__doc__,
        references=("untrained",),
        points=POINTS,
        trials=12,
        seeds=1,
        finalists=3,
        early_stopping="none",
        arguments=arguments,
    )

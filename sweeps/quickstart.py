#!/usr/bin/env python
"""A small network that sees half the pixels learns from one that sees them all: a whole sweep in minutes on two cores.

Data: signs (emoji), each drawn by two artists; find a sign in the other artist's hand among signs never seen in training.
Teacher: EfficientNet-Lite0 at 96 px. Students: the same network at 48 px, undistilled, and with the absolute and the relative
teacher of Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding", CVPR 2019 (Eq. 3 and 5).

    python sweeps/quickstart.py          # or: make quickstart
    dmkd leaderboard                     # afterwards

Cost: under 10 minutes on 2 CPU cores. Pictures: OpenMoji (CC BY-SA 4.0), Twemoji (CC BY 4.0); they are rendered here.
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
from dmkd.distill.yu import Yu
from dmkd.evaluation import Evaluation
from dmkd.losses import MultiSimilarity
from dmkd.models import Network
from dmkd.optim import Optim
from dmkd.space import Choice
from sweeps.space import Space
from sweeps.sweep import sweep

BATCHES = Batches(size=112, images_per_class=2, replacement=False)
VIEWS = Views(min_scale=0.5)
UNDISTILLED = MetricLearning(batches=BATCHES, views=VIEWS)
ABSOLUTE = Yu(absolute=1.0, relative=0.0, batches=BATCHES, views=VIEWS)
RELATIVE = Yu(absolute=0.0, relative=0.3, batches=BATCHES, views=VIEWS)

DATA = Data(name="signs", max_classes=600, crop_ratio=1.0)
NETWORK = Network(backbone="timm/tf_efficientnet_lite0", dim=128, resolution=48)

BASE = Config(
    data=DATA,
    student=NETWORK,
    loss=MultiSimilarity(),
    method=ABSOLUTE,
    optim=Optim(epochs=5, lr=3e-4, head_lr=1e-3),
    evaluation=Evaluation(nmi=False, every=5),
)

TEACHER = Config(
    data=DATA,
    student=Network(backbone="timm/tf_efficientnet_lite0", dim=128, resolution=96),
    loss=MultiSimilarity(),
    method=UNDISTILLED,
    optim=Optim(epochs=6, lr=3e-4, head_lr=1e-3),
    evaluation=Evaluation(nmi=False, every=6),
)

SPACE: Space = {"method": Choice((ABSOLUTE, RELATIVE, UNDISTILLED))}

if __name__ == "__main__":
    sweep("quickstart", BASE, SPACE, description=__doc__, teacher=TEACHER, trials=3, seeds=2, finalists=3, sampler="grid")

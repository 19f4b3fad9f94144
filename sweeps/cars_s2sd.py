#!/usr/bin/env python
"""S2SD on Cars-196: the published setting, and a search around it.

Paper: Roth et al., "Simultaneous Similarity-based Self-Distillation for Deep Metric Learning", ICML 2021, Table 1, row
"Multisimilarity + S2SD (MSDF)" with ResNet-50 at 128 dimensions. Trial 0 is that setting, number by number.

Searched: the weight of the distillation, its temperature, diffusion of the targets (off, or on with omega), the resolution.

    python sweeps/cars_s2sd.py --data-root DIR                  # on this machine, or on the cluster it belongs to
    ray job submit sweeps/cars_s2sd.py                          # on a running cluster, data in $DMKD_DATA/cars196
    python sweeps/cars_s2sd.py --max-gflops 1.5 --hours 24      # students of at most 1.5 GFLOPs, in a day

Cost: a trial of 150 epochs is about 10,000 steps of 112 images at 224 px through ResNet-50: a few hours on one recent GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.config import Config
from dmkd.data import Data
from dmkd.data.batches import Batches
from dmkd.distill.s2sd import S2SD
from dmkd.losses import MultiSimilarity
from dmkd.models import Network
from dmkd.optim import Optim
from dmkd.space import Choice, Range
from sweeps.space import Space
from sweeps.sweep import sweep

BASE = Config(
    data=Data(name="cars196"),
    student=Network(backbone="resnet50", dim=128, resolution=224, frozen_batchnorm=True),
    loss=MultiSimilarity(alpha=2, beta=40, base=0.5, epsilon=0.1),
    method=S2SD(
        weight=50.0,
        temperature=1.0,
        feature_weight=50.0,
        feature_delay=1000,
        dims=(512, 1024, 1536, 2048),
        batches=Batches(size=112, images_per_class=2),
    ),
    optim=Optim(epochs=150, optimizer="adam", lr=1e-5, weight_decay=4e-4, schedule="constant"),
)

SPACE: Space = {
    "method.weight": Range(1, 1000, log=True),
    "method.temperature": Range(0.2, 2),
    "method.diffusion.enabled": Choice((False, True)),
    "method.diffusion.omega": Range(0.01, 0.99, when=("method.diffusion.enabled", True)),
    "student.resolution": Choice((112, 160, 224)),
}

if __name__ == "__main__":
    sweep("cars_s2sd", BASE, SPACE, description=__doc__, trials=50, seeds=5)

#!/usr/bin/env python
"""A gallery embedded at 96 px, queries at 48 px: which asymmetric method keeps most of the teacher's search?

Data: signs (emoji), each drawn by two artists. The gallery is embedded by the teacher, EfficientNet-Lite0 at 96 px. Students
are the same network at 48 px, started from the teacher's weights, as Suma & Tolias, "Large-to-small Image Resolution Asymmetry in
Deep Metric Learning", WACV 2023 do. Methods: RAML (Eq. 10), and contrastive+ and regression of Budnik & Avrithis, "Asymmetric
Metric Learning for Knowledge Transfer", CVPR 2021 (Eq. 7). What they have to beat is the teacher itself, queried at 48 px.

    python sweeps/signs_asymmetric.py
    dmkd leaderboard                     # afterwards: asymmetric and symmetric rows in tables of their own

Cost: 28 minutes on 2 busy CPU cores.
Pictures: OpenMoji (CC BY-SA 4.0), Twemoji (CC BY 4.0); they are rendered here.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.config import Config
from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.distill.asymmetric import Asymmetric
from dmkd.distill.raml import Raml
from dmkd.losses import MultiSimilarity
from dmkd.models import Network
from dmkd.optim import Optim
from dmkd.space import Choice
from sweeps.quickstart import BACKBONE, DATA, EVALUATION, TEACHER
from sweeps.space import Space, Values
from sweeps.sweep import sweep

# Each student sees 56 pictures a step: 14 in four views, or the anchors of 56 tuples.
RAML = Raml(
    views=Views(per_image=4, augmentation="crop_flip_jitter", mixup=0.2, min_scale=0.5),
    batches=Batches(kind="plain", size=14, images_per_class=1, replacement=False, iterations=10),
)
TUPLES = Batches(kind="tuples", size=56, images_per_class=1, replacement=False, iterations=10, columns=1)
CONTRASTIVE = Asymmetric(own=True, batches=TUPLES)
REGRESSION = Asymmetric(objective="regression", batches=TUPLES)

BASE = Config(
    data=DATA,
    student=Network(backbone=BACKBONE, dim=128, resolution=48, checkpoint="teacher"),
    loss=MultiSimilarity(),
    method=RAML,
    optim=Optim(epochs=3, lr=3e-4),
    evaluation=EVALUATION,
)

SPACE: Space = {"method": Choice((RAML, CONTRASTIVE, REGRESSION))}
POINTS: list[Values] = [{"method": CONTRASTIVE}, {"method": REGRESSION}]

if __name__ == "__main__":
    sweep(
        "signs_asymmetric",
        BASE,
        SPACE,
        description=__doc__,
        teacher=TEACHER,
        points=POINTS,
        trials=1 + len(POINTS),
        finalists=1 + len(POINTS),
        early_stopping="none",
    )

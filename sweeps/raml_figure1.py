#!/usr/bin/env python
"""Suma & Tolias, "Large-to-small Image Resolution Asymmetry in Deep Metric Learning", WACV 2023,
Figures 1 and 4: mAP against the cost of a query: smaller pictures, or a smaller network (ResNet-18), with and without RAML.

    python sweeps/raml_figure1.py --dataset cub200                 # Figure 1; cars196 and sop: Figure 4
    python sweeps/raml_figure1.py --rows '*R18*' --with-teacher    # the asymmetry of networks
    dmkd leaderboard --group-by params.student.resolution          # afterwards; GFLOPs stand in each row

The figures print no numbers beyond Table 2's, which stand beside the rows that are in both.

Cost: 26 to 29 GPU-hours a student on CUB; the teachers are Table 2's, and are found if they are registered.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Line, Table, run_table

STUDENT = "raml/T2/{dataset}/raml/none/512/224"
R18: dict[str, object] = {"student.backbone": "resnet18", "student.resolution": 448, "student.checkpoint": ""}
PLAIN: dict[str, object] = {"method.rel_ts": 0.0, "method.rel_ss": 0.0, "method.stored": True, "method.views.teacher": False}
PLAIN |= {"method.views.per_image": 1, "method.views.augmentation": "none", "method.views.mixup": 0.0}

TABLE = Table(
    "raml_figure1",
    __doc__ or "",
    lines=(
        "raml/T2/{dataset}/*",
        Line(STUDENT, R18, "R18 at 448 of R50 at 448"),
        Line(STUDENT, R18 | PLAIN, "R18 at 448, absolute term alone, no augmentation"),
    ),
    datasets=("cub200", "cars196", "sop"),
    search="raml/T2/{dataset}/raml/none/512/224",
    space={
        "method.rel_ts": Range(0.6, 0.8),
        "method.rel_ss": Range(0.6, 0.8),
        "optim.lr": Range(1e-4, 2e-4, log=True),
        "student.resolution": Choice((112, 158, 224, 317)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

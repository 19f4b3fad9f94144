#!/usr/bin/env python
"""Roth et al., "Simultaneous Similarity-based Self-Distillation for Deep Metric Learning", ICML 2021,
Table 2: S2SD across architectures (ResNet-50 at 128 and 512 dimensions, Inception with batch-norm at 512).

    python sweeps/s2sd_table2.py --dataset cub200                  # or cars196, sop: the paper's own rows beside their numbers
    python sweeps/s2sd_table2.py --rows '*inception*'              # one architecture
    python sweeps/s2sd_table2.py --search                          # weight, temperature, diffusion, rate, resolution

Rows quoted from the literature are not trained. The schedule behind the printed numbers was never published: constant here.

Cost: 150 epochs are 7,800 steps of 112 pictures on CUB: 2 GPU-hours a run, 90 for the data set; SOP takes ten times that.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "s2sd_table2",
    __doc__ or "",
    lines=("s2sd/T2/{dataset}/*",),
    datasets=("cub200", "cars196", "sop"),
    search="s2sd/T2/{dataset}/msd*/ms/128/resnet50",
    space={
        "method.weight": Range(1, 1000, log=True),
        "method.temperature": Range(0.2, 2),
        "method.diffusion.enabled": Choice((False, True)),
        "method.diffusion.omega": Range(0.01, 0.99, when=("method.diffusion.enabled", True)),
        "optim.lr": Range(1e-6, 1e-4, log=True),
        "student.resolution": Choice((112, 160, 224)),
    },
    seeds=5,
)

if __name__ == "__main__":
    run_table(TABLE)

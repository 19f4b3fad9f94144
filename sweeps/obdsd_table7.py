#!/usr/bin/env python
"""Zeng et al., "Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric Learning", 2022,
Table 7: diffusion in the batch against diffusion over all training pictures.

    python sweeps/obdsd_table7.py --dataset cub200               # or cars196: 5 seeds a row, beside the printed numbers
    python sweeps/obdsd_table7.py --search                       # weight, temperature, omega, rate, resolution

The paper prints the best epoch on the test classes; here the last epoch counts, and they are seen once.

Cost: 150 epochs are 7,800 steps of 112 pictures on CUB: 2 to 3 GPU-hours a run; global diffusion adds a linear system
of all training pictures in each epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "obdsd_table7",
    __doc__ or "",
    lines=("obdsd/T7/{dataset}/*",),
    datasets=("cub200", "cars196"),
    search="obdsd/T7/{dataset}/obd_sd/ms/128",
    space={
        "method.weight": Range(10, 2000, log=True),
        "method.temperature": Range(0.2, 2),
        "method.diffusion.omega": Range(0.01, 0.99),
        "optim.lr": Range(1e-6, 1e-4, log=True),
        "student.resolution": Choice((112, 160, 224)),
    },
    seeds=5,
)

if __name__ == "__main__":
    run_table(TABLE)

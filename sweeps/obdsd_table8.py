#!/usr/bin/env python
"""Zeng et al., "Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric Learning", 2022,
Table 8: embedding density and spectral decay of OBD-SD's embedding space, on the training classes.

    python sweeps/obdsd_table8.py --dataset cub200               # or cars196: 5 seeds a row, beside the printed numbers
    python sweeps/obdsd_table8.py --search                       # weight, temperature, omega, rate, resolution

The paper prints the best epoch on the test classes; here the last epoch counts, and they are seen once.

Cost: 150 epochs are 7,800 steps of 112 pictures on CUB: 2 to 3 GPU-hours a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "obdsd_table8",
    __doc__ or "",
    lines=("obdsd/T8/{dataset}/*",),
    datasets=("cub200", "cars196"),
    search="obdsd/T8/{dataset}/obd_sd/ms/128",
    space={
        "method.weight": Range(10, 2000, log=True),
        "method.temperature": Range(0.2, 2),
        "method.diffusion.omega": Range(0.01, 0.99),
        "optim.lr": Range(1e-6, 1e-4, log=True),
        "student.resolution": Choice((112, 160, 224)),
    },
    report="train/embedding_density",
    metrics=("embedding_density", "trimmed_spectral_decay"),
    training_classes=True,
    seeds=5,
)

if __name__ == "__main__":
    run_table(TABLE)

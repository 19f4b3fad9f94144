#!/usr/bin/env python
"""Zeng et al., "Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric Learning", 2022,
Table 2: OBD-SD across architectures and dimensions, with longer schedules and average + max pooling.

    python sweeps/obdsd_table2.py --dataset cub200               # or cars196, sop: 5 seeds a row, beside the printed numbers
    python sweeps/obdsd_table2.py --search                       # weight, temperature, omega, rate, resolution

Rows quoted from the literature are not trained. The best epoch on the test classes is printed; the last counts here.

Cost: 300 epochs on Cars are 21,300 steps of 112 pictures: 6 GPU-hours a run; SOP takes five times that.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "obdsd_table2",
    __doc__ or "",
    lines=("obdsd/T2/{dataset}/*",),
    datasets=("cub200", "cars196", "sop"),
    search="obdsd/T2/{dataset}/obd_sd/ms/128/resnet50/-",
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

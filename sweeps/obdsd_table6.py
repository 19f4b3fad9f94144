#!/usr/bin/env python
"""Zeng et al., "Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric Learning", 2022,
Table 6: online batch diffusion added to other methods: BAR and MSD.

    python sweeps/obdsd_table6.py --with-teacher                 # or cars196: 5 seeds a row, beside the printed numbers
    python sweeps/obdsd_table6.py --search                       # weight, temperature, omega, rate, resolution

BAR learns from a frozen network of its own architecture, trained first. The last epoch counts here.

Cost: 150 epochs are 7,800 steps of 112 pictures on CUB: 2 to 3 GPU-hours a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "obdsd_table6",
    __doc__ or "",
    lines=("obdsd/T6/{dataset}/*",),
    datasets=("cub200", "cars196"),
    search="obdsd/T6/{dataset}/msd+obdp/ms/128",
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

#!/usr/bin/env python
"""Budnik & Avrithis, "Asymmetric metric learning for knowledge transfer", CVPR 2021,
Table 3: asymmetric search against pruning on the original Oxford5k and Paris6k, without whitening; and what the networks cost.

    python sweeps/aml_table3.py --with-teacher                     # beside their numbers
    python sweeps/aml_table3.py --search --with-teacher            # margin, rate and resolution

The networks are those of Table 2, tested on other pictures. The pruned VGG16 is quoted and not trained.

Cost: 300 epochs of 2000 tuples at 362 px: 5 to 28 GPU-hours a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "aml_table3",
    __doc__ or "",
    lines=("aml/T3/*",),
    datasets=("sfm120k",),
    search="aml/T3/oxford5k/aml_contr/contrastive/512",
    space={
        "method.margin": Range(0.3, 1.2),
        "optim.lr": Range(1e-4, 1e-2, log=True),
        "student.resolution": Choice((224, 288, 362)),
    },
    seeds=1,
)

if __name__ == "__main__":
    run_table(TABLE)

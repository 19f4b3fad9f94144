#!/usr/bin/env python
"""Budnik & Avrithis, "Asymmetric metric learning for knowledge transfer", CVPR 2021,
Tables 5 and 6: the ablation of Table 1 for all four pairs of teacher and student, with mP@10; symmetric and asymmetric tests.

    python sweeps/aml_table5.py --with-teacher                     # 20 networks beside their numbers
    python sweeps/aml_table5.py --rows '*/2048/efficientnet_b3'    # one pair
    python sweeps/aml_table5.py --search --with-teacher            # margin, rate and resolution

Tests: 1024 px, three scales; queries by the student, the database by the teacher (asymmetric) or the student.

Cost: 300 epochs of 2000 tuples at 362 px: 5 to 28 GPU-hours a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "aml_table5",
    __doc__ or "",
    lines=("aml/T5/*", "aml/T6/*"),
    datasets=("sfm120k",),
    search="aml/T5/roxford5k/aml_contr/contrastive/512/mobilenetv2",
    space={
        "method.margin": Range(0.3, 1.2),
        "optim.lr": Range(1e-4, 1e-2, log=True),
        "student.resolution": Choice((224, 288, 362)),
    },
    seeds=1,
)

if __name__ == "__main__":
    run_table(TABLE)

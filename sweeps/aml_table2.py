#!/usr/bin/env python
"""Budnik & Avrithis, "Asymmetric metric learning for knowledge transfer", CVPR 2021,
Tables 2, 7 and 8: two students of two teachers, seven objectives, on revisited Oxford and Paris: mAP (2) and mP@10 too (7, 8).

    python sweeps/aml_table2.py --with-teacher                     # 34 networks beside their numbers
    python sweeps/aml_table2.py --rows '*/512/mobilenetv2'         # one student of one teacher
    python sweeps/aml_table2.py --search --with-teacher            # margin, rate and resolution

Tests: 1024 px, three scales; queries by the student, the database by the teacher (asymmetric) or the student.
Each training is a row of all three tables.

Cost: 300 epochs of 2000 tuples at 362 px (symmetric: 100): 6 to 29 GPU-hours a run, 450 in all.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "aml_table2",
    __doc__ or "",
    lines=("aml/T2/*", "aml/T7/*", "aml/T8/*"),
    datasets=("sfm120k",),
    search="aml/T2/roxford5k/aml_contr_plus/contrastive/512/mobilenetv2",
    space={
        "method.margin": Range(0.3, 1.2),
        "optim.lr": Range(1e-4, 1e-2, log=True),
        "student.resolution": Choice((224, 288, 362)),
    },
    seeds=1,
)

if __name__ == "__main__":
    run_table(TABLE)

#!/usr/bin/env python
"""Budnik & Avrithis, "Asymmetric metric learning for knowledge transfer", CVPR 2021,
Table 1: which positives and negatives the asymmetric contrastive loss needs (MobileNetV2 of a VGG16 teacher, 512 dimensions).

    python sweeps/aml_table1.py --with-teacher                     # five students and what teaches them, beside their numbers
    python sweeps/aml_table1.py --set teacher.checkpoint=DIR       # with the landmark teacher of `dmkd import-teacher`
    python sweeps/aml_table1.py --search --with-teacher            # margin, rate and resolution

Tests: 1024 px, three scales; queries by the student, the database by the teacher (asymmetric) or the student.

Cost: 300 epochs of 2000 tuples at 362 px, 7 GPU-hours a run; regression has ten times the pictures, 20.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "aml_table1",
    __doc__ or "",
    lines=("aml/T1/*",),
    datasets=("sfm120k",),
    search="aml/T1/roxford5k/aml_contr/contrastive/512",
    space={
        "method.margin": Range(0.3, 1.2),
        "optim.lr": Range(1e-4, 1e-2, log=True),
        "student.resolution": Choice((224, 288, 362)),
    },
    seeds=1,
)

if __name__ == "__main__":
    run_table(TABLE)

#!/usr/bin/env python
"""Suma & Tolias, "Large-to-small Image Resolution Asymmetry in Deep Metric Learning", WACV 2023,
Table 2: students at 317, 224 and 158 px query the database of a teacher at 448 px, and search each its own.

    python sweeps/raml_table2.py --dataset cub200                  # or cars196, sop: seven rows, 3 seeds, beside their numbers
    python sweeps/raml_table2.py --rows 'raml/none*'            # the students, and what teaches them
    python sweeps/raml_table2.py --search --with-teacher           # both lambdas, rate and resolution

The teachers are rows of the table and are trained first. mAP (trapezoidal) and Recall@1, asymmetric and symmetric.

Cost: a student on CUB makes 200 epochs of 733 batches of 8 pictures x 8 views: 26 GPU-hours at 224 px.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "raml_table2",
    __doc__ or "",
    lines=("raml/T2/{dataset}/*",),
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

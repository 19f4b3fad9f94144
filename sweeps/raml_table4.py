#!/usr/bin/env python
"""Suma & Tolias, "Large-to-small Image Resolution Asymmetry in Deep Metric Learning", WACV 2023,
Table 4: from which weights the student starts: its teacher's, those of a teacher at its own resolution, or ImageNet's.

    python sweeps/raml_table4.py --with-teacher                    # nine rows, 3 seeds, beside their numbers
    python sweeps/raml_table4.py --rows '*imagenet'                # one start
    python sweeps/raml_table4.py --search --with-teacher           # both lambdas and the rate, from ImageNet

Cost: 200 epochs of 733 batches of 8 pictures x 8 views: 26 GPU-hours a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "raml_table4",
    __doc__ or "",
    lines=("raml/T4/cub200/*",),
    datasets=("cub200",),
    search="raml/T4/cub200/raml/none/512/init=imagenet",
    space={
        "method.rel_ts": Range(0.6, 0.8),
        "method.rel_ss": Range(0.6, 0.8),
        "optim.lr": Range(1e-4, 2e-4, log=True),
        "student.resolution": Choice((112, 158, 224, 317)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

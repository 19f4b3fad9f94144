#!/usr/bin/env python
"""Suma & Tolias, "Large-to-small Image Resolution Asymmetry in Deep Metric Learning", WACV 2023,
Table 3: what each loss term and each augmentation contributes, on CUB-200-2011 at 224 px against 448 px.

    python sweeps/raml_table3.py --with-teacher                    # nine rows, 3 seeds, beside their numbers
    python sweeps/raml_table3.py --rows '*mixup=1*' --with-teacher # those with mixup
    python sweeps/raml_table3.py --search --with-teacher           # both lambdas and the rate

Cost: 200 epochs of 733 batches of 8 pictures x 8 views: 26 GPU-hours a run; the row without augmentation 3.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "raml_table3",
    __doc__ or "",
    lines=("raml/T3/cub200/*",),
    datasets=("cub200",),
    search="raml/T3/cub200/raml/none/512/coupled=1+geom=1+mixup=1",
    space={
        "method.rel_ts": Range(0.6, 0.8),
        "method.rel_ss": Range(0.6, 0.8),
        "optim.lr": Range(1e-4, 2e-4, log=True),
        "student.resolution": Choice((112, 158, 224, 317)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

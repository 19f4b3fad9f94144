#!/usr/bin/env python
"""Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding", CVPR 2019,
Table 2: a ResNet-18 student of a ResNet-101 on Stanford Online Products.

    python sweeps/yu_table2.py                                     # four rows, 3 seeds, beside their printed numbers
    python sweeps/yu_table2.py --search --with-teacher             # weight, rate and resolution of the relative teacher

Recall@1, 10, 100, 1000; every test picture is a query (the released code draws 10,000 of them).

Cost: 50 passes over 11,318 classes are 141,000 steps of 32 pictures: about 10 GPU-hours a row.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "yu_table2",
    __doc__ or "",
    lines=("yu2019/T2/sop/*",),
    datasets=("sop",),
    search="yu2019/T2/sop/yu_rel/triplet/512",
    space={
        "method.relative": Range(0.01, 3, log=True),
        "optim.lr": Range(1e-6, 1e-4, log=True),
        "student.resolution": Choice((112, 160, 224)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

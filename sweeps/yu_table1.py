#!/usr/bin/env python
"""Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding", CVPR 2019,
Table 1: a ResNet-18 student of a ResNet-101 on CUB-200-2011 and Cars-196, under ten objectives.

    python sweeps/yu_table1.py --dataset cars196                   # every row, 3 seeds, beside its printed number
    python sweeps/yu_table1.py --rows 'none*,yu_rel/*'             # some of them
    python sweeps/yu_table1.py --search --with-teacher             # weight, rate and resolution of the relative teacher

The teacher is the table's own row and is trained first. Recall@1, 2, 4, 8, 16 on the test classes.

Cost: a student on CUB makes 50,000 steps of 32 pictures (2000 passes over the classes), 3 to 4 GPU-hours; the table 110.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "yu_table1",
    __doc__ or "",
    lines=("yu2019/T1/{dataset}/*",),
    datasets=("cub200", "cars196"),
    search="yu2019/T1/{dataset}/yu_rel/triplet/512",
    space={
        "method.relative": Range(0.01, 3, log=True),
        "optim.lr": Range(1e-6, 1e-4, log=True),
        "student.resolution": Choice((112, 160, 224)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

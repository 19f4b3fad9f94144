#!/usr/bin/env python
"""Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding", CVPR 2019,
Table 6: the student sees small or uncut pictures, the teacher whole ones or their boxes, on CUB-200-2011 and Cars-196.

    python sweeps/yu_table6.py --dataset cub200                    # eight rows, 3 seeds, beside their printed numbers
    python sweeps/yu_table6.py --rows '*low-resolution'            # pictures reduced to 50 x 50
    python sweeps/yu_table6.py --search --with-teacher             # weight, rate and resolution of the relative teacher

The student's test pictures are degraded too, the teacher's are not: the two have different protocols, and boards of their own.

Cost: 50,000 steps of 32 pictures a row on CUB, 3 GPU-hours; its half of the table 70.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "yu_table6",
    __doc__ or "",
    lines=("yu2019/T6/{dataset}/*",),
    datasets=("cub200", "cars196"),
    search="yu2019/T6/{dataset}/yu_rel/triplet/512/low-resolution",
    space={
        "method.relative": Range(0.01, 3, log=True),
        "optim.lr": Range(1e-6, 1e-4, log=True),
        "student.resolution": Choice((112, 160, 224)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

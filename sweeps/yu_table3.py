#!/usr/bin/env python
"""Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding", CVPR 2019,
Table 3: half of the labels of CUB-200-2011; the other half's pictures teach through the teacher alone.

    python sweeps/yu_table3.py                                     # eight rows, 3 seeds, beside their printed numbers
    python sweeps/yu_table3.py --search --with-teacher             # the relative teacher on both halves

Which half is labelled is drawn by a hash (`data.split_seed`), and so is the same in every row.

Cost: 50,000 steps of 32 pictures a row, 3 to 4 GPU-hours; the table 90.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "yu_table3",
    __doc__ or "",
    lines=("yu2019/T3/cub200/*",),
    datasets=("cub200",),
    search="yu2019/T3/cub200/yu_rel/triplet/512/labeled+unlabeled",
    space={
        "method.relative": Range(0.01, 3, log=True),
        "optim.lr": Range(1e-6, 1e-4, log=True),
        "student.resolution": Choice((112, 160, 224)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

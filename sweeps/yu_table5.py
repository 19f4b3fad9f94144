#!/usr/bin/env python
"""Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding", CVPR 2019,
Table 5: a MobileNet-0.25 of 0.3 million parameters learns from a ResNet-101 on CUB-200-2011.

    python sweeps/yu_table5.py                                     # three rows, 3 seeds, beside their printed numbers
    python sweeps/yu_table5.py --search --with-teacher             # weight, rate and resolution of the relative teacher

There are no public ImageNet weights for this width (docs/networks.md): give yours by --set student.weights=FILE.

Cost: 50,000 steps of 32 pictures a row, 3 to 4 GPU-hours; the table 30.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "yu_table5",
    __doc__ or "",
    lines=("yu2019/T5/cub200/*",),
    datasets=("cub200",),
    search="yu2019/T5/cub200/yu_rel/triplet/512",
    space={
        "method.relative": Range(0.01, 3, log=True),
        "optim.lr": Range(1e-6, 1e-4, log=True),
        "student.resolution": Choice((112, 160, 224)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

#!/usr/bin/env python
"""Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding", CVPR 2019,
Table 4: parameters of the teacher, of the student, and of MobileNet-0.25, each with its embedding of 512 dimensions.

    python sweeps/yu_table4.py

Nothing is trained: the networks are built and counted, and logged as runs beside the printed numbers.

Cost: seconds, no pictures, no GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweeps.tables import Table, run_table

TABLE = Table(
    "yu_table4",
    __doc__ or "",
    lines=("yu2019/T4/flops/*",),
    datasets=("networks",),
)

if __name__ == "__main__":
    run_table(TABLE)

#!/usr/bin/env python
"""Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding", CVPR 2019,
Figure 4: how sensitive Recall@1 is to the weight of the absolute and of the relative teacher, on CUB's validation classes.

    python sweeps/yu_figure4.py --with-teacher                     # both curves
    python sweeps/yu_figure4.py --rows '*yu_rel*'                  # the relative teacher's
    dmkd leaderboard --group-by params.method.relative             # afterwards

The figure has no table: there is no printed number to stand beside. The teacher has not seen the validation classes either.

Cost: 14 runs of 40,000 steps of 32 pictures, 7 to 8 GPU-hours each, half of it the
validation after every epoch (--set evaluation.every=10).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Range
from sweeps.tables import Line, Table, run_table

ROW = "yu2019/T1/cub200/yu_{}/triplet/512"
ABSOLUTE = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
RELATIVE = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)

TABLE = Table(
    "yu_figure4",
    __doc__ or "",
    lines=(
        *(Line(ROW.format("abs"), {"method.absolute": weight}, f"absolute {weight:g}") for weight in ABSOLUTE),
        *(Line(ROW.format("rel"), {"method.relative": weight}, f"relative {weight:g}") for weight in RELATIVE),
    ),
    datasets=("cub200",),
    search="yu2019/T1/cub200/yu_abs/triplet/512",
    space={"method.absolute": Range(0.01, 10, log=True)},
    validation=True,
    seeds=1,
)

if __name__ == "__main__":
    run_table(TABLE)

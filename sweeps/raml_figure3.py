#!/usr/bin/env python
"""Suma & Tolias, "Large-to-small Image Resolution Asymmetry in Deep Metric Learning", WACV 2023,
Figure 3: how many augmentations of a picture a student needs, on CUB-200-2011 at 224 px against 448 px.

    python sweeps/raml_figure3.py --with-teacher                   # 1, 2, 4, 8 and 16 views
    python sweeps/raml_figure3.py --search --with-teacher          # both lambdas and the rate, at 8 views
    dmkd leaderboard --group-by params.method.views.per_image      # afterwards

With one view the relational terms have no pairs: that point is the absolute term alone. Eight views are Table 2's row.

Cost: 200 epochs of 733 batches; a run with 8 views takes 26 GPU-hours, with A views A / 8 of that.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Choice, Range
from sweeps.tables import Line, Table, run_table

ROW = "raml/T2/cub200/raml/none/512/224"

TABLE = Table(
    "raml_figure3",
    __doc__ or "",
    lines=(
        Line(ROW, {"method.views.per_image": 1, "method.rel_ts": 0.0, "method.rel_ss": 0.0}, "1 view, absolute term alone"),
        *(Line(ROW, {"method.views.per_image": views}, f"{views} views") for views in (2, 4, 8, 16)),
    ),
    datasets=("cub200",),
    search=ROW,
    space={
        "method.rel_ts": Range(0.6, 0.8),
        "method.rel_ss": Range(0.6, 0.8),
        "optim.lr": Range(1e-4, 2e-4, log=True),
        "student.resolution": Choice((112, 158, 224, 317)),
    },
)

if __name__ == "__main__":
    run_table(TABLE)

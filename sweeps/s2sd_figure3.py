#!/usr/bin/env python
"""Roth et al., "Simultaneous Similarity-based Self-Distillation for Deep Metric Learning", ICML 2021,
Figure 3: what of S2SD matters: distillation itself, the dimension, the kernel, the heads, who teaches whom, the weight.

    python sweeps/s2sd_figure3.py --with-teacher                   # all six panels; the teacher is the 2048-d network of panel A
    python sweeps/s2sd_figure3.py --rows 'C*'                      # the kernels alone
    python sweeps/s2sd_figure3.py --search                         # the weight of panel F, searched

The figure prints no numbers. Panel A's "Dist." learns from a frozen network of 2048 dimensions, similarity row by row.

Cost: 31 runs a seed of 2 GPU-hours on CUB; three seeds are 190 GPU-hours.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Range
from sweeps.tables import Line, Table, run_table

NONE, DSD, MSD = (f"s2sd/T1/{{dataset}}/{method}/ms/128" for method in ("none", "dsd", "msd"))
LARGE = Line(NONE, {"student.dim": 2048}, "A: teacher, 2048 dimensions")
DIST = Line(NONE, {"method.preset": "s2sd_two_stage"}, "A: Dist., two stages", LARGE, {"sop": {"method.weight": 5.0}})

LINES = (
    Line(NONE, {}, "A: student"),
    LARGE,
    DIST,
    Line(DSD, {}, "A: DSD"),
    Line(MSD, {}, "A: MSD"),
    Line("s2sd/T1/{dataset}/msdfa/ms/128", {}, "A: MSDFA"),
    Line(DSD, {"method.distillation": False}, "A: Joint"),
    Line(DSD, {"method.distillation": False, "method.detached": True}, "A: Concur."),
    *(
        Line(row, {"student.dim": dim}, f"B: {name}, {dim}")
        for dim in (32, 64, 256, 512)
        for row, name in ((NONE, "none"), (DSD, "DSD"))
    ),
    *(Line(DSD, {"method.kernel": kernel}, f"C: {kernel}") for kernel in ("matrix", "means", "cosine", "euclidean")),
    *(Line(DSD, {"method.depth": depth}, f"D: {depth} layers") for depth in (1, 3, 4)),
    *(Line(MSD, {"method.topology": topology}, f"E: {topology}") for topology in ("nested", "chained")),
    *(Line(DSD, {"method.weight": weight}, f"F: weight {weight:g}") for weight in (0.0, 0.5, 5.0, 25.0, 100.0, 500.0)),
)

TABLE = Table(
    "s2sd_figure3",
    __doc__ or "",
    lines=LINES,
    datasets=("cub200", "cars196", "sop"),
    search="s2sd/T1/{dataset}/dsd/ms/128",
    space={"method.weight": Range(0.1, 1000, log=True), "method.temperature": Range(0.2, 2)},
)

if __name__ == "__main__":
    run_table(TABLE)

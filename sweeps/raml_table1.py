#!/usr/bin/env python
"""Suma & Tolias, "Large-to-small Image Resolution Asymmetry in Deep Metric Learning", WACV 2023,
Table 1: teachers trained at six resolutions, 634 to 112, each tested at all six.

    python sweeps/raml_table1.py --dataset cub200                  # or cars196, sop: six rows, 3 seeds, beside their numbers
    python sweeps/raml_table1.py --rows '*/448'                    # the teacher of Tables 2 to 4
    python sweeps/raml_table1.py --search                          # rate and margin of the teacher

Cost: 200 epochs of 30 steps of 200 pictures on CUB: 5 (112 px) to 11 GPU-hours (634 px); 130 for the data set.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.space import Range
from sweeps.tables import Table, run_table

TABLE = Table(
    "raml_table1",
    __doc__ or "",
    lines=("raml/T1/{dataset}/*",),
    datasets=("cub200", "cars196", "sop"),
    search="raml/T1/{dataset}/teacher/triplet/512/448",
    space={"optim.lr": Range(1e-5, 1e-3, log=True), "method.margin": Range(0.1, 1.0)},
)

if __name__ == "__main__":
    run_table(TABLE)

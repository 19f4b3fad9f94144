#!/usr/bin/env python
"""Budnik & Avrithis, "Asymmetric metric learning for knowledge transfer", CVPR 2021,
Table 4: parameters and FLOPs of the teachers and the students.

    python sweeps/aml_table4.py

Nothing is trained: the networks are built and counted, and logged as runs beside the printed numbers. The paper counts a
multiply-add twice, at 362 px (docs/networks.md).

Cost: seconds, no pictures, no GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweeps.tables import Table, run_table

TABLE = Table(
    "aml_table4",
    __doc__ or "",
    lines=("aml/T4/flops/*", "aml/T3/flops/*"),
    datasets=("networks",),
)

if __name__ == "__main__":
    run_table(TABLE)

#!/usr/bin/env python
"""Roth et al., "Simultaneous Similarity-based Self-Distillation for Deep Metric Learning", ICML 2021,
Figure 2: S2SD changes the embedding space's density and spectral decay (of the training classes), over three base losses.

    python sweeps/s2sd_figure2.py --dataset cub200                 # 15 rows, 5 seeds; the board shows the embedding density
    dmkd leaderboard --select val/spectral_decay --report train/spectral_decay

The figure prints no numbers; these are Table 1's networks, looked at by other metrics.

Cost: that of s2sd_table1: 150 epochs of 112 pictures a step, 2 GPU-hours a run on CUB.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweeps.tables import Table, run_table

TABLE = Table(
    "s2sd_figure2",
    __doc__ or "",
    lines=("s2sd/T1/{dataset}/none/*", "s2sd/T1/{dataset}/msdf/*", "s2sd/T1/{dataset}/msdfa/*"),
    datasets=("cub200", "cars196", "sop"),
    report="train/embedding_density",
    metrics=("embedding_density", "spectral_decay"),
    training_classes=True,
    seeds=5,
)

if __name__ == "__main__":
    run_table(TABLE)

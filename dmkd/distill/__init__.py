"""Every method, by name and by preset."""

from __future__ import annotations

from dmkd.distill import asymmetric, baselines, obd_sd, raml, s2sd, yu
from dmkd.distill.asymmetric import Asymmetric
from dmkd.distill.base import Method
from dmkd.distill.baselines import DarkRank, Kl, Pkt, Rkd
from dmkd.distill.metric_learning import MetricLearning
from dmkd.distill.obd_sd import ObdSd
from dmkd.distill.raml import Raml
from dmkd.distill.s2sd import S2SD
from dmkd.distill.yu import Yu

METHODS: dict[str, type[Method]] = {
    cls.name: cls for cls in (MetricLearning, Yu, S2SD, Asymmetric, Raml, ObdSd, Rkd, DarkRank, Pkt, Kl)
}
"""`method.name` -> its configuration."""

PRESETS: dict[str, Method] = yu.PRESETS | s2sd.PRESETS | asymmetric.PRESETS | raml.PRESETS | obd_sd.PRESETS | baselines.PRESETS
"""`method.preset` -> a ready configuration, as published."""

__all__ = [
    "METHODS",
    "PRESETS",
    "S2SD",
    "Asymmetric",
    "DarkRank",
    "Kl",
    "Method",
    "MetricLearning",
    "ObdSd",
    "Pkt",
    "Raml",
    "Rkd",
    "Yu",
]

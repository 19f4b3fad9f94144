"""Every method, by name and by preset."""

from __future__ import annotations

from dmkd.distill import asymmetric, baselines, grouped_triplet, obd_sd, raml, s2sd, symmetric, yu
from dmkd.distill.asymmetric import Asymmetric
from dmkd.distill.base import Method
from dmkd.distill.baselines import DarkRank, Kl, Pkt, Rkd, TwoStage
from dmkd.distill.grouped_triplet import GroupedTriplet
from dmkd.distill.metric_learning import MetricLearning
from dmkd.distill.obd_sd import ObdSd
from dmkd.distill.raml import Raml
from dmkd.distill.s2sd import S2SD
from dmkd.distill.symmetric import Symmetric
from dmkd.distill.yu import Yu

_CLASSES: tuple[type[Method], ...] = (
    *(MetricLearning, Symmetric, GroupedTriplet),
    *(Yu, S2SD, Asymmetric, Raml, ObdSd),
    *(Rkd, DarkRank, Pkt, Kl, TwoStage),
)

METHODS: dict[str, type[Method]] = {cls.name: cls for cls in _CLASSES}
"""`method.name` -> its configuration."""

_MODULES = (yu, s2sd, asymmetric, symmetric, raml, grouped_triplet, obd_sd, baselines)

PRESETS: dict[str, Method] = {name: preset for module in _MODULES for name, preset in module.PRESETS.items()}
"""`method.preset` -> a ready configuration, as published."""

__all__ = [
    "METHODS",
    "PRESETS",
    "S2SD",
    "Asymmetric",
    "DarkRank",
    "GroupedTriplet",
    "Kl",
    "Method",
    "MetricLearning",
    "ObdSd",
    "Pkt",
    "Raml",
    "Rkd",
    "Symmetric",
    "TwoStage",
    "Yu",
]

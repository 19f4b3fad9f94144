"""The arms of the study: what is trained, what is searched, and which teacher stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dmkd.config import Config, from_dict
from dmkd.space import Range, override

STUDENT, TEACHER = "timm/tf_efficientnet_lite0", "timm/tf_efficientnet_lite2"
SMALL, LARGE = 32, 64
"""Sides of the student's and the teacher's pictures."""
FROZEN = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")
"""Early modules that do not train, in every arm: half the cost of a step, and a milder fine-tuning."""
EPOCHS, ITERATIONS = 10, 5
RATE = {"optim.lr": Range(1e-4, 2e-3, log=True)}
BATCH = {"size": 112, "images_per_class": 4, "iterations": ITERATIONS}
IMAGES = 112 * ITERATIONS
"""Images (views counted) that every arm sees in an epoch, in as many steps as suit it: the asymmetric methods take small ones."""

BASE: Config = from_dict(
    {
        "data": {"name": "manifest", "protocol": "strict", "crop_ratio": 1.0, "validation": 0.2},
        "student": {"backbone": STUDENT, "dim": 128, "resolution": SMALL, "frozen": list(FROZEN)},
        "loss": {"name": "multi_similarity"},
        "method": {"name": "metric_learning", "batches": BATCH, "views": {"min_scale": 0.3}},
        "optim": {"epochs": EPOCHS, "lr": 3e-4, "schedule": "cosine"},
        "evaluation": {"every": EPOCHS, "batch_size": 128, "k": [1]},
    }
)


@dataclass(frozen=True)
class Arm:
    """One thing that is trained: changes to `BASE`, and the ranges that its trials search."""

    changes: Mapping[str, Any]
    space: Mapping[str, Range] = field(default_factory=dict)
    teacher: bool = False

    @property
    def config(self) -> Config:
        """`BASE` with the changes; data root and teacher are still open."""
        return override(BASE, self.changes)

    @property
    def ranges(self) -> dict[str, Range]:
        """Every arm searches its learning rate, and what is its own."""
        return RATE | dict(self.space)


def _method(name: str, batches: Mapping[str, Any] = BATCH, **fields: Any) -> dict[str, Any]:
    return {"method": {"name": name, "batches": dict(batches), "views": {"min_scale": 0.3}} | fields}


def _tuples(objective: str, **fields: Any) -> dict[str, Any]:
    steps = {"size": 28, "iterations": IMAGES // 28}
    batches = {"kind": "tuples", "images_per_class": 1, "replacement": False, "columns": 1} | steps
    views = {"augmentation": "none", "teacher": False}
    return {"method": {"name": "asymmetric", "objective": objective, "batches": batches, "views": views} | fields}


def _raml(**views: Any) -> dict[str, Any]:
    batches = {"kind": "plain", "size": 5, "images_per_class": 1, "replacement": False, "iterations": IMAGES // 40}
    drawn = {"per_image": 8, "augmentation": "crop_flip_jitter", "mixup": 0.2, "min_scale": 0.3}
    return {"method": {"name": "raml", "batches": batches, "views": drawn | views}}


ABSOLUTE = {"method.absolute": Range(0.1, 10, log=True)}
RELATIVE = {"method.relative": Range(0.01, 1, log=True)}
WEIGHT = {"method.weight": Range(5, 500, log=True)}
OBD = {"method.weight": Range(10, 2000, log=True)}
OMEGA = {"method.diffusion.omega": Range(0.1, 0.99)}
TERMS = {"method.rel_ts": Range(0.2, 1.5), "method.rel_ss": Range(0.2, 1.5)}
MARGIN = {"method.margin": Range(0.1, 1.2)}
DELAY = {"feature_delay": round(0.13 * EPOCHS * ITERATIONS)}
"""1000 of 150 epochs x 52 iterations, as the paper has it on CUB."""
MSD = (512, 1024, 1536, 2048)
NOISE = {"data.label_noise": 0.2}
PROXY = {"loss": {"name": "library", "loss": "ProxyAnchorLoss", "lr": 0.03}}
"""Proxies learn at 100 times the network's rate, as in Proxy Anchor."""
HALF = {"data.labelled": 0.5}
COARSE = {"data.degradation": "low_resolution", "data.degraded_size": 12}

RELATIVE_METHOD = _method("yu", relative=0.1)
PSD = _method("obd_sd", diffusion={"enabled": False})
OBD_SD = _method("obd_sd", diffusion={"enabled": True, "omega": 0.99})
MSDF = _method("s2sd", dims=list(MSD), features=True, **DELAY)
MSDF_SPACE = WEIGHT | {"method.feature_weight": Range(5, 500, log=True)}

ARMS: dict[str, Arm] = {
    "none": Arm({}),
    "yu_relative": Arm(RELATIVE_METHOD, RELATIVE, teacher=True),
    "yu_absolute": Arm(_method("yu", absolute=1.0, relative=0.0), ABSOLUTE, teacher=True),
    "dsd": Arm(_method("s2sd", dims=[2048], features=False), WEIGHT),
    "msd": Arm(_method("s2sd", dims=list(MSD), features=False), WEIGHT),
    "msdf": Arm(MSDF, MSDF_SPACE),
    "psd": Arm(PSD, OBD),
    "obd_sd": Arm(OBD_SD, OBD | OMEGA),
    "aml_regression": Arm(_tuples("regression"), teacher=True),
    "aml_contrastive_plus": Arm(_tuples("contrastive", own=True), MARGIN, teacher=True),
    "aml_triplet": Arm(_tuples("triplet", margin=0.1), MARGIN, teacher=True),
    "aml_multi_similarity": Arm(_tuples("multi_similarity"), {"method.base": Range(0.2, 0.8)}, teacher=True),
    "raml": Arm(_raml() | {"student.backbone": TEACHER, "student.checkpoint": "teacher"}, TERMS, teacher=True),
    "raml_other_network": Arm(_raml() | {"student.resolution": 48}, TERMS, teacher=True),
    "raml_48": Arm(
        _raml() | {"student.backbone": TEACHER, "student.checkpoint": "teacher", "student.resolution": 48}, TERMS, teacher=True
    ),
    "raml_network_64": Arm(_raml() | {"student.resolution": LARGE}, TERMS, teacher=True),
    "none_labels50": Arm({**HALF, "data.use": "labelled"}),
    "yu_relative_labels50": Arm({**RELATIVE_METHOD, **HALF, "data.use": "labelled"}, RELATIVE, teacher=True),
    "yu_relative_semi": Arm({**RELATIVE_METHOD, **HALF}, RELATIVE, teacher=True),
    "none_coarse": Arm(COARSE),
    "yu_relative_coarse": Arm({**RELATIVE_METHOD, **COARSE}, RELATIVE, teacher=True),
    "none_noise20": Arm(NOISE),
    "psd_noise20": Arm({**PSD, **NOISE}, OBD),
    "obd_sd_noise20": Arm({**OBD_SD, **NOISE}, OBD | OMEGA),
    "none_proxy": Arm(PROXY),
    "psd_proxy": Arm({**PSD, **PROXY}, OBD),
    "none_d512": Arm({"student.dim": 512}),
    "msdf_d64": Arm({**MSDF, "student.dim": 64}, MSDF_SPACE),
    "msdf_d32": Arm({**MSDF, "student.dim": 32}, MSDF_SPACE),
    "yu_relative_attention": Arm(
        _method("yu", relative=0.1, attention=1.0, layers=["blocks.4"], teacher_layers=["blocks.6"]),
        RELATIVE | {"method.attention": Range(0.05, 5, log=True)},
        teacher=True,
    ),
}

LONGER, FLATTER = 4, 8
"""The finals are run again with so many times the epochs: does a verdict outlive the short plan (of the arms `LONG`), and does it
hold where the baseline moves no more (of all)?"""
FALLS = (0.4, 0.6)
"""Where the rate of the longest plan falls to a tenth: a cosine's falls to the end, and while a rate falls recall rises."""
LONG = ("none", "psd", "obd_sd", "msdf", "yu_relative")


def longer(arm: Arm, times: int) -> dict[str, Any]:
    """Changes to an arm for `times` times the epochs; what counts steps grows with them, other values stay."""
    epochs = times * arm.config.optim.epochs
    delay = arm.changes.get("method", {}).get("feature_delay")
    return {"optim.epochs": epochs, "evaluation.every": epochs} | (
        {} if delay is None else {"method.feature_delay": times * delay}
    )


TEACHER_ARM = Arm(
    {
        "student.backbone": TEACHER,
        "student.resolution": LARGE,
        "optim.epochs": 12,
        "evaluation.every": 12,
        "method.batches.iterations": 10,
    }
)
"""The teacher: a larger network on larger pictures, trained for longer by the same loss."""

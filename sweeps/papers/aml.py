"""Budnik & Avrithis 2021: landmark networks trained on SfM-120k, students against the teacher's gallery."""

from __future__ import annotations

from sweeps.papers.row import Plan, Row, Values, chosen

BACKBONES = {
    "mobilenetv2": "mobilenet_v2",
    "efficientnet_b3": "timm/tf_efficientnet_b3",
    "vgg16": "vgg16_unpooled",
    "resnet101": "resnet101",
}
TEACHERS = {512: "vgg16", 2048: "resnet101"}
"""The teacher of a dimension; its own channels are the embedding."""

CONTRASTIVE: Values = {"method.objective": "contrastive", "method.margin": 0.7, "optim.lr": 1e-3}
MULTI_SIMILARITY: Values = {"method.objective": "multi_similarity", "method.alpha": 1.0, "method.beta": 1.0, "method.base": 0.6}
ASYMMETRIC: dict[str, Values] = {
    "aml_contr": CONTRASTIVE,
    "aml_contr_plus": CONTRASTIVE | {"method.own": True},
    "aml_contr_pos": CONTRASTIVE | {"method.negatives": False},
    "aml_contr_self_pos": CONTRASTIVE | {"method.own": True, "method.negatives": False},
    "aml_triplet": {"method.objective": "triplet", "method.margin": 0.1, "optim.lr": 1e-8},
    "aml_ms": MULTI_SIMILARITY | {"optim.lr": 1e-8},
    "regression": {"method.objective": "regression", "method.batches.iterations": 2000, "optim.lr": 1e-3},
    "rkd_da": {"method.objective": "rkd", "method.batches.size": 70, "optim.lr": 1e-2},
    "darkrank": {"method.objective": "darkrank", "method.form": "paper", "method.batches.size": 70},
}
"""Objective, its constants and its rate (Sec. 4.1), by the published name."""

DARKRANK_RATE = {("mobilenetv2", 512): 1e-6, ("efficientnet_b3", 512): 1e-6, ("mobilenetv2", 2048): 1e-5}
DARKRANK_RATE[("efficientnet_b3", 2048)] = 1e-7

SELECTION = (
    "published: the best epoch on SfM-120k's validation clusters, by a score that the text does not name (code: the loss); "
    "here: recall at 1 there, `val/loss` and `val/map` are measured too"
)
TEACHER_NOTE = (
    "the paper took this network ready from Radenovic et al. 2018 (`dmkd import-teacher` takes it in); trained here, it is "
    "trained as the paper's students without a teacher are"
)
REGRESSION_NOTE = "an epoch of 20,000 random pictures as released; the text does not say"
STORED_NOTE = "at which size the teacher's features were stored is not stated: at the teacher's own here, on one scale"
SWAPPED_NOTE = "this row's ROxford and RParis numbers look exchanged in the paper itself"
RELATIONAL_NOTE = "a batch of 70 random pictures: the text wants tuples of the same overall size (10 x 7), the code gives 10"


def plan(row: Row) -> Plan:
    """A row of Tables 1 to 3 and 5 to 8."""
    if row.method == "plfp_pruning":
        return Plan(reason="pruning of VGG16 by others (PLFP), quoted for comparison: no method here prunes")
    notes = {
        TEACHER_NOTE: row.method == "teacher",
        STORED_NOTE: row.method not in ("none", "teacher"),
        REGRESSION_NOTE: row.method == "regression",
        RELATIONAL_NOTE: row.method in ("rkd_da", "darkrank"),
        SWAPPED_NOTE: (row.method, row.backbone, row.dim) == ("aml_contr", "efficientnet_b3", 512),
    }
    told = tuple(note for note, holds in notes.items() if holds)
    return Plan(training(row) | method(row), teacher_of(row), selection=SELECTION, notes=told)


def teacher_of(row: Row) -> str:
    """The key of the landmark network that teaches; empty for symmetric training."""
    if row.method in ("none", "teacher"):
        return ""
    return f"aml/T2/roxford5k/teacher/contrastive/{row.dim}/{TEACHERS[int(row.dim or 0)]}"


def training(row: Row) -> Values:
    """362 px, GeM, SGD with momentum 0.9 and decay 0.99 an epoch, tuples of 1 + 1 + 5, 10 a batch, 200 batches (Sec. 4.1)."""
    own = row.method == "teacher"
    return testing(row) | {
        "data.name": "sfm120k",
        "data.transform": "max_side",
        "student.backbone": chosen(BACKBONES, str(row.backbone)),
        "student.pooling": "gem",
        "student.dim": 0 if own else row.dim,
        "student.projection": "linear" if own else "conv",
        "student.resolution": 362,
        "student.frozen_batchnorm": True,
        "optim.optimizer": "sgd",
        "optim.weight_decay": 1e-6,
        "optim.schedule": "exponential",
        "optim.gamma": 0.99,
    }


def testing(row: Row) -> Values:
    """1024 px on three scales; both test sets at once; whitening from SfM-120k's pairs, but in Table 3 (Sec. 4.1)."""
    plain = row.table == "T3"
    return {
        "evaluation.average_precision": "trapezoidal",
        "evaluation.landmarks": ("oxford5k", "paris6k") if plain else ("roxford5k", "rparis6k"),
        "evaluation.max_side": 1024,
        "evaluation.scales": (1.0, 0.5**0.5, 0.5),
        "evaluation.whitening": "none" if plain else "pairs",
    }


def method(row: Row) -> Values:
    """The objective, its rate, and 300 epochs (symmetric: 100) of 2000 tuples."""
    tuples = {"method.batches.size": 10, "method.batches.iterations": 200}
    if row.method in ("none", "teacher"):
        return {"method.name": "symmetric"} | tuples | CONTRASTIVE | {"optim.lr": 1e-5, "optim.epochs": 100}
    rate = {"optim.lr": DARKRANK_RATE[(str(row.backbone), int(row.dim or 0))]} if row.method == "darkrank" else {}
    return {"method.name": "asymmetric", "optim.epochs": 300} | tuples | chosen(ASYMMETRIC, row.method) | rate

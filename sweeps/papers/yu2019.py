"""Yu et al. 2019: absolute and relative teachers; semi-supervised (Table 3), MobileNet (Table 5), cross-quality (Table 6)."""

from __future__ import annotations

from sweeps.papers.fine_grained import batches, pictures
from sweeps.papers.row import Plan, Row, Values, chosen, data_set

ABSOLUTE = {"cub200": 1.0, "cars196": 1.5, "sop": 2.0}
RELATIVE = {"cub200": 0.3, "cars196": 0.1, "sop": 1.0}
EPOCHS = {"cub200": 2000, "cars196": 3000, "sop": 50}
"""In passes over the classes: 25, 24 and 2829 steps."""

BACKBONES = {"resnet18": "resnet18", "resnet101": "resnet101", "mobilenet0.25": "mobilenet_v1_025"}

STAGES = ("layer1", "layer2", "layer3", "layer4")
TEACHER_STAGES = ("layer1.2.conv2", "layer2.3.conv2", "layer3.22.conv2", "layer4.2.conv2")
"""Where ResNet-101 has the channels of ResNet-18's stages, so that a hint needs no adapter."""

SELECTION = (
    "published: hyper-parameters on a fifth of the training data, then all of it for a fixed number of epochs, mean of 3 runs; "
    "here: the same with the published constants, validation by classes"
)
MARGIN_NOTE = "the text names the triplet margin m without a value: the released code's 0 is taken"
HINT_NOTE = "the weight of the hint term is not reported: 0.001 brings four hint norms to the size of the other terms"
ATTENTION_NOTE = "the weight of the attention term is not reported: 1 is taken"
BASELINE_NOTE = "the weight of this baseline is not reported: 1 for DarkRank, 30000 for PKT (as Tian et al. 2020 compare it)"
TEACHER_NOTE = "whether Table 3's teacher saw the labelled half alone is not stated: it does here"
MIXED_NOTE = "how a batch mixes both halves is not stated: half of its groups are pictures without a label"
CROP_NOTE = "crops are the released code's, of any size from 8 % of a picture; the text cuts squares of 224 px from 256 x 256"
SOP_NOTE = "the released evaluation caps SOP at 10,000 random queries; here every test picture is a query"


def plan(row: Row) -> Plan:
    """A row of Tables 1, 2, 3, 5, 6."""
    values = training(row) | method(row) | semi_supervised(row) | quality(row)
    notes = {
        MARGIN_NOTE: True,
        CROP_NOTE: True,
        HINT_NOTE: "hint" in row.method,
        ATTENTION_NOTE: row.method.endswith("+at"),
        BASELINE_NOTE: row.method in ("pkt", "darkrank"),
        TEACHER_NOTE: row.table == "T3" and row.method in ("teacher", "yu_abs", "yu_rel"),
        MIXED_NOTE: row.variant == "labeled+unlabeled",
        SOP_NOTE: row.dataset == "sop",
    }
    distilled = row.method not in ("none", "teacher")
    teacher = teacher_of(row) if distilled else ""
    return Plan(values, teacher, selection=SELECTION, notes=tuple(note for note, holds in notes.items() if holds))


def training(row: Row) -> Values:
    """Adam at 1e-5, 4 classes x 8 images, batch-hard triplets, 512 dimensions at 224 px, batch-norm trains (Sec. 5.1).

    Crops are cut from pictures reduced to 256 px, but where these are cut to boxes, which are those of whole pictures.
    """
    k = {} if row.dataset == "sop" else {"evaluation.k": (1, 2, 4, 8, 16)}
    reduced = {} if row.variant == "unlocalized" else {"data.view_short_side": 256}
    return (
        pictures(row)
        | k
        | reduced
        | {
            "student.backbone": chosen(BACKBONES, str(row.backbone)),
            "student.dim": row.dim,
            "student.head_init": "kaiming",
            "student.resolution": 224,
            "student.frozen_batchnorm": False,
            "loss.name": "triplet",
            "loss.sampler": "batch_hard",
            "loss.margin": 0.0,
            "optim.epochs": EPOCHS[row.dataset],
            "optim.optimizer": "adam",
            "optim.lr": 1e-5,
            "optim.weight_decay": 2e-4,
            "optim.schedule": "constant",
        }
    )


def method(row: Row) -> Values:
    """The method, with lambda of the data set."""
    relation, _, extra = row.method.partition("+")
    absolute = {"method.name": "yu", "method.absolute": ABSOLUTE[row.dataset], "method.relative": 0.0}
    relative = {"method.name": "yu", "method.absolute": 0.0, "method.relative": RELATIVE[row.dataset]}
    methods: dict[str, Values] = {
        "none": {"method.name": "metric_learning"},
        "teacher": {"method.name": "metric_learning"},
        "yu_abs": absolute,
        "yu_rel": relative,
        "pkt": {"method.name": "pkt", "method.weight": 30000.0},
        "darkrank": {"method.name": "darkrank", "method.weight": 1.0},
    }
    hint = {"method.hint": 0.001, "method.layers": STAGES, "method.teacher_layers": TEACHER_STAGES}
    extras: dict[str, Values] = {"": {}, "hint": hint, "at": {"method.attention": 1.0, "method.layers": STAGES}}
    alone = {"method.metric": 0.0} if row.base_loss == "none" else {}
    return chosen(methods, relation) | batches(32, 8, replacement=False) | chosen(extras, extra) | alone


def semi_supervised(row: Row) -> Values:
    """Table 3: half of each class's pictures have a label; which of the pictures are seen."""
    uses = {"labeled": "labelled", "labeled+unlabeled": "all", "unlabeled": "unlabelled"}
    return {"data.labelled": 0.5, "data.use": uses[row.variant]} if row.table == "T3" else {}


def quality(row: Row) -> Values:
    """Table 6: the student sees 50 x 50 pictures enlarged, or whole ones where the teacher sees them cut to their boxes."""
    if row.table != "T6":
        return {}
    if row.variant == "low-resolution":
        return {} if row.method == "teacher" else {"data.degradation": "low_resolution", "data.degraded_size": 50}
    uses = {"teacher": "all", "none": "none"}
    return data_set(row.dataset, "manifest") | {"data.use_boxes": uses.get(row.method, "teacher")}


def teacher_of(row: Row) -> str:
    """The key of the table's own teacher."""
    if row.table == "T3":
        return row.other("teacher", base_loss="triplet", variant="labeled")
    return row.other("teacher", variant=row.variant) if row.table == "T6" else row.other("teacher")

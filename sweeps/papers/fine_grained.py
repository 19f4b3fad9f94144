"""What the tables on CUB-200-2011, Cars-196 and Stanford Online Products (SOP) share."""

from __future__ import annotations

from sweeps.papers.row import Row, Values, chosen, data_set

READERS = {"cub200": "folder", "cars196": "cars196", "sop": "manifest"}
"""What reads a data set that dmkd does not know by name: CUB's folder of classes, a manifest with SOP's own split."""

SWITCH = {"cub200": 0.4, "cars196": 0.35, "sop": 0.15}
"""R-margin's probability of a triplet that pushes class-mates apart, in the sample runs of Revisiting DML at beta 0.6."""

SWITCH_NOTE = "R-margin's switch probability is not in the text: that of Revisiting DML's sample runs is taken"

SELECTION = (
    "published: the best epoch on the test classes, for each metric by itself; "
    "here: the last epoch, and the test classes are seen once"
)


def pictures(row: Row) -> Values:
    """The data set, and the K of Recall@K that the papers print on it."""
    k = {"evaluation.k": (1, 10, 100, 1000)} if row.dataset == "sop" else {}
    return data_set(row.dataset, chosen(READERS, row.dataset)) | k


def base_loss(row: Row) -> Values:
    """Multi-similarity, margin (beta 1.2, distance-weighted), or R-margin (beta 0.6, rho-regularised)."""
    losses: dict[str, Values] = {
        "ms": {"loss.name": "multi_similarity"},
        "margin": {"loss.name": "margin", "loss.beta": 1.2, "loss.sampler": "distance_weighted"},
        "r_margin": {"loss.name": "margin", "loss.beta": 0.6, "loss.sampler": "rho", "loss.switch": SWITCH[row.dataset]},
    }
    return chosen(losses, str(row.base_loss))


BACKBONES: dict[str, Values] = {
    "resnet50": {"student.backbone": "resnet50", "student.frozen_batchnorm": True},
    "inception_bn": {"student.backbone": "bninception", "student.frozen_batchnorm": False},
    "inception_bn_frozen": {"student.backbone": "bninception", "student.frozen_batchnorm": True},
}


def pipeline(row: Row) -> Values:
    """The pipeline of Revisiting DML: networks, 56 x 2 images, Adam at 1e-5 with L2 of 4e-4, no schedule."""
    training = {"optim.optimizer": "adam", "optim.lr": 1e-5, "optim.weight_decay": 4e-4, "optim.schedule": "constant"}
    student = {"student.dim": row.dim, "student.resolution": 224, "student.pooling": "average"}
    return pictures(row) | base_loss(row) | chosen(BACKBONES, str(row.backbone)) | student | training


def batches(size: int = 112, images_per_class: int = 2, replacement: bool = True) -> Values:
    """`method.batches` of P classes x K images."""
    return {
        "method.batches.size": size,
        "method.batches.images_per_class": images_per_class,
        "method.batches.replacement": replacement,
    }

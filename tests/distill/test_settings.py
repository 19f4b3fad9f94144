"""Settings of the published tables that only a whole run can show: where a student starts from, samplers, lengths of epochs."""

from __future__ import annotations

import math

import pytest
import torch

from dmkd.errors import ConfigError, ShapeError
from dmkd.trainer import Training, fit
from tests.every_method import make_teacher, tiny

CPU = torch.device("cpu")
RAML = {"method.batches.size": 3, "method.batches.iterations": 2, "optim.epochs": 1}


@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory):
    return make_teacher(root, tmp_path_factory.mktemp("large"), resolution=48)


@pytest.fixture(scope="module")
def small_teacher(root, tmp_path_factory):
    return make_teacher(root, tmp_path_factory.mktemp("small"), seed=8)


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_ramls_student_starts_from_the_teacher_from_a_teacher_of_its_resolution_or_from_neither(root, teacher, small_teacher):
    starts = {"teacher": "teacher", "small": str(small_teacher), "own": ""}
    runs = {
        name: Training(tiny("raml", root, teacher, RAML | {"student.checkpoint": checkpoint}), CPU)
        for name, checkpoint in starts.items()
    }
    large = weights(runs["teacher"].teacher.network)
    assert torch.equal(weights(runs["teacher"].student), large)
    other = weights(Training(tiny("metric_learning", root, changes={"student.checkpoint": str(small_teacher)}), CPU).student)
    assert torch.equal(weights(runs["small"].student), other)
    assert not torch.equal(other, large)
    assert not torch.equal(weights(runs["own"].student), large)
    assert not torch.equal(weights(runs["own"].student), other)
    for name, run in runs.items():
        assert (run.resolution, run.teacher.resolution) == (32, 48), name
        assert math.isfinite(run.train_epoch()["train/loss"]), name
        assert torch.equal(weights(run.teacher.network), large), "the teacher stays as it is"
        assert not torch.equal(weights(run.student), weights(run.teacher.network)), name


@pytest.mark.parametrize("resolution", [32, 48])
def test_ramls_student_may_be_another_network_at_the_teachers_resolution_or_below(root, teacher, resolution):
    changes = RAML | {"student.backbone": "timm/test_resnet", "student.resolution": resolution, "student.pooling": "gem"}
    (epoch,) = fit(tiny("raml", root, teacher, changes))
    assert math.isfinite(epoch.metrics["train/loss"])
    assert {"val/recall_at_1", "val_asymmetric/recall_at_1"} <= set(epoch.metrics)
    with pytest.raises(ShapeError, match=r"student gives 4 dimensions, the teacher 8"):
        next(fit(tiny("raml", root, teacher, changes | {"student.dim": 4})))


def test_a_teacher_to_start_from_must_be_of_the_students_architecture(root, teacher, small_teacher):
    changes = RAML | {"student.backbone": "timm/test_resnet", "student.checkpoint": str(small_teacher)}
    with pytest.raises(ConfigError, match="backbone"):
        next(fit(tiny("raml", root, teacher, changes)))


@pytest.mark.parametrize("name", ["s2sd", "obd_sd"])
@pytest.mark.parametrize("loss", ["margin", "triplet", "contrastive"])
def test_semihard_triplets_inside_self_distillation(root, name, loss):
    """OBD-SD's Table 4: the released code looks for the margin of a loss that it does not know."""
    changes = {"loss.name": loss, "loss.sampler": "semihard", "optim.epochs": 2}
    *_, last = fit(tiny(name, root, changes=changes))
    assert last.metrics["train/metric"] > 0
    assert math.isfinite(last.metrics["train/loss"])


@pytest.mark.parametrize(("name", "accumulate"), [("grouped_triplet", 1), ("symmetric", 2)])
def test_the_plan_knows_how_many_tuples_an_epoch_has(root, name, accumulate):
    """4 classes of 4 pictures train: 8 groups of 2 in batches of 3, the last of 2; 16 anchors in 5 batches of 3, two a step."""
    changes = {"method.batches.iterations": 0, "method.batches.size": 3, "optim.accumulate": accumulate, "optim.epochs": 1}
    run = Training(tiny(name, root, changes=changes), CPU)
    assert (len(run.parts.train.classes), len(run.parts.train)) == (4, 16)
    assert run.plan.iterations_per_epoch == 3
    run.train_epoch()
    assert run.iteration == 3

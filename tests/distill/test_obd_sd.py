from __future__ import annotations

import pytest
import torch
from tiny_world import FixedTriplets, features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.distill import PRESETS, MetricLearning, ObdSd
from dmkd.distill.base import Plan, Shapes
from dmkd.distill.diffusion import Diffusion
from dmkd.errors import TrainingError


def obd_sd_of(data):
    constants = data.constants
    diffusion = Diffusion("omega" in constants, constants.get("omega", 0.5), constants.get("diffusion_tau", 1.0))
    method = ObdSd(weight=constants["lambda"], temperature=constants["tau"], diffusion=diffusion)
    return method, constants["epoch_zero_based"] / constants["n_epochs"]


OBD_GOLDENS = [
    *(f"obdsd_ms_{case}" for case in ("cub_ep0", "cub_ep75", "cub_ep149", "cars_ep75", "sop_ep75", "tau0.5")),
    "psd_ms",
]


@pytest.mark.parametrize("name", OBD_GOLDENS)
def test_obd_sd_meets_its_goldens(golden, name):
    data = golden(f"{name}_B8")
    method, progress = obd_sd_of(data)
    student = data.leaf("student")
    step = step_of(features(student), features(data["teacher"]), data["labels"], progress=progress)
    data.check(total(method.build(Shapes(6, 1), multi_similarity)(step)), student=student)


def test_obd_sd_with_margin_loss_meets_its_golden(golden):
    data = golden("obdsd_margin_cub_ep75_B8")
    method, progress = obd_sd_of(data)
    metric = FixedTriplets(data["triplets"], 1.2)
    student = data.leaf("student")
    step = step_of(features(student), features(data["teacher"]), data["labels"], progress=progress)
    data.check(total(method.build(Shapes(6, 1), lambda dim: metric)(step)), student=student, beta=metric.beta)


def test_plain_metric_learning_meets_its_golden(golden):
    data = golden("obdsd_ms_baseline_B8")
    student = data.leaf("student")
    objective = MetricLearning().build(Shapes(6, 1), multi_similarity)
    data.check(total(objective(step_of(features(student), labels=data["labels"]))), student=student)


def test_obd_sd_needs_no_teacher_in_the_first_epoch_and_one_afterwards():
    objective = ObdSd().build(Shapes(6, 1), multi_similarity)
    student = features(F.normalize(torch.randn(4, 6)))
    assert objective(step_of(student, progress=0.0))["distillation"].item() == 0
    with pytest.raises(TrainingError, match="teacher"):
        objective(step_of(student, progress=0.1))


def test_a_constant_weight_is_the_end_of_the_ramp():
    torch.manual_seed(0)
    student, teacher = (features(F.normalize(torch.randn(4, 6))) for _ in range(2))
    shapes = Shapes(6, 1)
    constant = ObdSd(dynamic=False).build(shapes, multi_similarity)(step_of(student, teacher, progress=0.0))
    ramped = ObdSd().build(shapes, multi_similarity)(step_of(student, teacher, progress=1.0))
    assert constant["distillation"].item() == ramped["distillation"].item() > 0


def test_obd_sd_is_ready_after_half_the_plan_and_a_single_epoch_never_distils():
    assert [ObdSd().ready_after(Plan(epochs, 9)) for epochs in (150, 3, 1)] == [75, 2, 1]
    assert ObdSd().inactive_terms(Plan(1, 9)) == ("distillation",)
    assert ObdSd(dynamic=False).ready_after(Plan(150, 9)) == 1
    assert ObdSd(dynamic=False).inactive_terms(Plan(1, 9)) == ()


def test_obd_sd_presets_are_the_published_numbers():
    settings = {name: (x.weight, x.diffusion.omega, x.diffusion.temperature) for name, x in PRESETS.items() if "obd" in name}
    assert settings == {"obd_sd": (75, 0.99, 1), "obd_sd_cub": (1000, 0.3, 1), "obd_sd_sop": (100, 0.5, 0.005)}
    assert PRESETS["obd_sd"] == ObdSd()
    assert not PRESETS["psd"].diffusion.enabled

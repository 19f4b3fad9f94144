from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny_world import FixedTriplets, features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.distill import PRESETS, MetricLearning, ObdSd
from dmkd.distill.base import Plan, Shapes
from dmkd.distill.diffusion import Diffusion
from dmkd.errors import ConfigError, TrainingError


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


def test_obd_sd_is_ready_where_recorded_ranks_agree_and_a_single_epoch_never_distils():
    assert [ObdSd().ready_after(Plan(epochs, 9)) for epochs in (150, 16, 3, 1)] == [66, 7, 2, 1]
    assert ObdSd().inactive_terms(Plan(1, 9)) == ("distillation",)
    assert ObdSd(dynamic=False).ready_after(Plan(150, 9)) == 1
    assert ObdSd(dynamic=False).inactive_terms(Plan(1, 9)) == ()


def test_obd_sd_presets_are_the_published_numbers():
    settings = {name: (x.weight, x.diffusion.omega, x.diffusion.temperature) for name, x in PRESETS.items() if "obd" in name}
    assert settings == {
        "obd_sd": (75, 0.99, 1),
        "obd_sd_cub": (1000, 0.3, 1),
        "obd_sd_sop": (100, 0.5, 0.005),
        "obd_sd_cars_512": (200, 0.99, 1),
        "obd_sd_sop_512": (200, 0.5, 0.005),
        "obd_global": (75, 0.99, 1),
        "obd_global_cub": (1000, 0.3, 1),
    }
    assert PRESETS["obd_sd"] == ObdSd()
    assert [PRESETS[name].scope for name in ("obd_global", "obd_global_cub", "obd_sd")] == ["global", "global", "batch"]
    assert ObdSd().neighbours == 50
    plain = {name: (x.weight, x.dynamic) for name, x in PRESETS.items() if name.startswith("psd")}
    assert plain == {"psd": (75, True), "psd_cub": (1000, True), "psd_static": (75, False), "psd_static_cub": (1000, False)}
    assert not any(PRESETS[name].diffusion.enabled for name in plain)


def naive_refined(features, neighbours, omega, power):
    """Mutual neighbours, one pair at a time, and the walk summed step by step."""
    similarity = (features @ features.T).double().numpy()
    count = len(similarity)
    near = [set(sorted(range(count), key=lambda j: (j != i, -similarity[i, j]))[:neighbours]) for i in range(count)]
    affinity = np.zeros((count, count))
    for i in range(count):
        for j in near[i]:
            if i != j and i in near[j]:
                affinity[i, j] = max(similarity[i, j], 0) ** power
    scale = 1 / np.sqrt(affinity.sum(1) + 1e-12)
    transition, term = scale[:, None] * affinity * scale, (1 - omega) * similarity
    refined = np.zeros_like(term)
    for _ in range(400):
        refined += term
        term = omega * transition @ term
    return torch.from_numpy(refined)


def test_global_diffusion_gathers_the_batchs_part_of_the_whole_training_set(world):
    method = ObdSd(weight=3.0, diffusion=Diffusion(True, omega=0.5), scope="global", neighbours=6)
    home = world(method)
    objective = home.objective()
    assert objective.on_epoch(home) is None
    refined = naive_refined(home.embed(torch.arange(32)), 6, 0.5, 3)
    torch.testing.assert_close(objective.refined.double(), refined, rtol=1e-4, atol=1e-5)
    index = torch.tensor([7, 3, 3, 30, 12])
    student = F.normalize(torch.randn(5, 8))
    step = dataclasses.replace(step_of(features(student), labels=home.labels[index], progress=0.5), index=index)
    target = torch.stack([torch.stack([refined[i, j] for j in index]) for i in index]).softmax(1)
    log_student = (student @ student.T).double().log_softmax(1)
    expected = 1.5 * (target * (target.log() - log_student)).sum(1).mean()
    assert objective(step)["distillation"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_global_diffusion_is_refreshed_from_the_student_of_each_epoch_and_idle_at_weight_zero(world):
    home = world(PRESETS["obd_global"])
    home.epoch = 0
    objective = home.objective()
    objective.on_epoch(home)
    assert objective.refined is None, "its weight is 0 in the first epoch"
    assert objective(home.step(None, progress=0.0))["distillation"].item() == 0
    with pytest.raises(TrainingError, match="on_epoch"):
        objective(home.step(None, progress=0.1))
    home.epoch = 1
    objective.on_epoch(home)
    before = objective.refined
    with torch.no_grad():
        home.student.map.weight.add_(torch.randn_like(home.student.map.weight))
    assert objective.refined is before, "the target stands still within an epoch"
    objective.on_epoch(home)
    assert not torch.allclose(objective.refined, before)
    assert not objective.state_dict(), "it is made anew after a resume"


def test_global_diffusion_wants_diffusion():
    with pytest.raises(ConfigError, match="scope"):
        ObdSd(scope="global", diffusion=Diffusion()).build(Shapes(6, 1), multi_similarity)

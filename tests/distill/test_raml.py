from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_world import features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.data.views import Views
from dmkd.distill import PRESETS, Raml
from dmkd.distill.base import Plan, Shapes
from dmkd.errors import ConfigError, ShapeError, TrainingError


@pytest.mark.parametrize("name", ["abs", "abs_relts", "abs_relss", "full", "full_cub"])
def test_raml_meets_its_goldens(golden, name):
    data = golden(f"raml_{name}_B2_A3")
    weights = {"rel_ts": data.constants["lam_1_ts"], "rel_ss": data.constants["lam_2_ss"]}
    method = Raml(views=Views(per_image=3), reduction="sum", **weights)
    objective = method.build(Shapes(6, 1, teacher=Shapes(6, 1)), multi_similarity)
    student = data.leaf("student")
    terms = objective(step_of(features(student.flatten(0, 1)), features(data["teacher"].flatten(0, 1))))
    assert set(terms) == {"abs"} | {key for key, weight in weights.items() if weight}
    data.check(total(terms), student=student)


def test_raml_defaults_are_the_papers_and_its_mean_is_the_sum_over_images():
    method = Raml()
    assert (method.abs, method.rel_ts, method.rel_ss, method.reduction) == (1, 0.7, 0.7, "mean")
    assert (method.views.per_image, method.views.mixup, method.views.augmentation) == (8, 0.2, "crop_flip_jitter")
    assert method.gallery == "teacher"
    torch.manual_seed(0)
    student, teacher = (F.normalize(torch.randn(3 * 8, 6)) for _ in range(2))
    shapes, losses = Shapes(6, 1, teacher=Shapes(6, 1)), {}
    for reduction in ("mean", "sum"):
        objective = Raml(reduction=reduction).build(shapes, multi_similarity)
        losses[reduction] = total(objective(step_of(features(student), features(teacher)))).item()
    assert losses["sum"] == pytest.approx(3 * losses["mean"], rel=1e-5)


def test_raml_refuses_another_dimension_and_names_what_one_view_cannot_give():
    with pytest.raises(ShapeError, match=r"128.*512"):
        Raml().build(Shapes(128, 1, teacher=Shapes(512, 1)), multi_similarity)
    assert Raml(views=Views(per_image=1)).inactive_terms(Plan(1, 1)) == ("rel_ts", "rel_ss")
    assert Raml().inactive_terms(Plan(1, 1)) == ()


def test_stored_teacher_features_meet_the_golden_of_the_regression(golden):
    data = golden("raml_regression_B2")
    method = dataclasses.replace(PRESETS["raml_ts_reg"], reduction="sum")
    objective = method.build(Shapes(6, 1, teacher=Shapes(6, 1)), multi_similarity)
    student = data.leaf("student")
    with pytest.raises(TrainingError, match="on_epoch"):
        objective(step_of(features(student)))
    objective.features = data["teacher"]
    data.check(total(objective(step_of(features(student)))), student=student)


def test_stored_features_are_those_of_each_rows_picture_embedded_once(world):
    home = world(PRESETS["raml_ts_reg"])
    calls, embed = [], home.embed
    home.embed = lambda positions, network: calls.append(network) or embed(positions, network)
    objective = home.objective()
    objective.on_epoch(home)
    objective.on_epoch(home)
    assert calls == ["teacher"]
    step = home.step(None)
    shuffled = torch.randperm(32, generator=torch.Generator().manual_seed(3))
    student = features(step.student.embedding[shuffled])
    found = objective(dataclasses.replace(step, student=student, index=shuffled))["abs"]
    cosine = (student.embedding * embed(shuffled, "teacher")).sum(1)
    assert found.item() == pytest.approx((1 - cosine).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Raml(abs=0.0, rel_ts=0.0, rel_ss=0.0), "nothing to train"),
        (dataclasses.replace(PRESETS["raml_ts_reg"], rel_ss=0.5), "rel_ss=0"),
        (dataclasses.replace(PRESETS["raml_ts_reg"], views=Views(teacher=False, mixup=0.2)), "mixup=0"),
        (Raml(rel_ts=0.0, rel_ss=0.0, stored=True, views=Views()), "either stored"),
        (Raml(views=Views(per_image=2, teacher=False)), "either stored"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(method, message):
    with pytest.raises(ConfigError, match=message):
        method.build(Shapes(6, 1, teacher=Shapes(6, 1)), multi_similarity)


def test_presets_of_table_3_switch_terms_and_augmentations():
    on = {
        name: [term for term in ("abs", "rel_ts", "rel_ss") if getattr(x, term)]
        for name, x in PRESETS.items()
        if x.name == "raml"
    }
    assert {name: terms for name, terms in on.items() if len(terms) == 1} == {
        "raml_abs": ["abs"],
        "raml_rel_ts": ["rel_ts"],
        "raml_rel_ss": ["rel_ss"],
        "raml_uncoupled": ["abs"],
        "raml_no_mixup": ["abs"],
        "raml_ts_reg": ["abs"],
    }
    shown = {name: (x.views.coupled, x.views.augmentation, x.views.mixup) for name, x in PRESETS.items() if x.name == "raml"}
    assert shown["raml_abs"] == shown["raml_cub"] == (True, "crop_flip_jitter", 0.2)
    assert shown["raml_uncoupled"] == (False, "crop_flip_jitter", 0.0)
    assert shown["raml_no_mixup"] == (True, "crop_flip_jitter", 0.0)
    assert shown["raml_ts_reg"][1:] == ("none", 0.0)

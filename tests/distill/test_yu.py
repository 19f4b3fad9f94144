from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_world import features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.distill import Yu
from dmkd.distill.base import Shapes
from dmkd.errors import ShapeError
from dmkd.losses import Triplet


def test_yu_meets_the_golden_of_the_training_loop(golden):
    data = golden("yu_total_relative_B8_lam0.3")
    batch_hard = Triplet(margin=0.0, sampler="batch_hard").build(6, 8)
    objective = Yu(relative=0.3).build(Shapes(6, 1, teacher=Shapes(6, 1)), lambda dim: batch_hard)
    student = data.leaf("student")
    terms = objective(step_of(features(student), features(data["teacher"]), data["labels"]))
    assert set(terms) == {"metric", "relative"}
    data.check(total(terms), student=student)


def test_the_relative_teacher_may_have_another_dimension_and_the_absolute_may_not():
    shapes = Shapes(128, 512, teacher=Shapes(512, 2048))
    Yu(relative=0.3).build(shapes, multi_similarity)
    with pytest.raises(ShapeError, match=r"128.*512"):
        Yu(absolute=1.0).build(shapes, multi_similarity)


def test_hints_of_other_channels_need_an_adapter_asked_for():
    student = {"layer1": 3, "layer2": 4}
    shapes = Shapes(8, 4, student, Shapes(8, 8, {"layer1": 3, "layer2": 8}))
    method = Yu(relative=0, hint=1.0, layers=("layer1", "layer2"))
    with pytest.raises(ShapeError, match=r"layer2 the student has 4 channels, the teacher 8"):
        method.build(shapes, multi_similarity)
    objective = dataclasses.replace(method, hint_adapter=True).build(shapes, multi_similarity)
    assert {name: tuple(value.shape) for name, value in objective.named_parameters()} == {"adapters.layer2.weight": (8, 4, 1, 1)}


def test_yu_asks_for_stages_only_where_a_term_looks_at_them():
    assert Yu().stages == ()
    assert Yu(attention=1.0, layers=("layer4",)).stages == ("layer4",)


def test_hint_and_attention_sum_over_the_layers():
    torch.manual_seed(0)
    stages = [{name: torch.randn(2, 3, 2, 2) for name in ("layer1", "layer2")} for _ in range(2)]
    shapes = Shapes(4, 3, {"layer1": 3, "layer2": 3}, Shapes(4, 3, {"layer1": 3, "layer2": 3}))
    method = Yu(relative=0, hint=2.0, attention=3.0, layers=("layer1", "layer2"))
    x = F.normalize(torch.randn(2, 4))
    terms = method.build(shapes, multi_similarity)(step_of(features(x, stages=stages[0]), features(x, stages=stages[1])))

    def attention(z):
        return F.normalize(z.abs().sum(1).flatten(1))

    pairs = [(stages[0][name], stages[1][name]) for name in ("layer1", "layer2")]
    assert terms["hint"].item() == pytest.approx(
        2 * sum((a - b).flatten(1).norm(dim=1).mean().item() for a, b in pairs), rel=1e-5
    )
    expected = 3 * sum((attention(a) - attention(b)).norm(dim=1).mean().item() for a, b in pairs)
    assert terms["attention"].item() == pytest.approx(expected, rel=1e-5)


def test_yu_weighs_both_teachers():
    torch.manual_seed(0)
    student, teacher = (F.normalize(torch.randn(4, 6)) for _ in range(2))
    method = Yu(absolute=2.0, relative=0.5, form="paper")
    terms = method.build(Shapes(6, 1, teacher=Shapes(6, 1)), multi_similarity)(step_of(features(student), features(teacher)))
    assert terms["absolute"].item() == pytest.approx(2 * (student - teacher).norm(dim=1).mean().item(), rel=1e-4)
    gaps = (torch.pdist(student) - torch.pdist(teacher)).abs()
    assert terms["relative"].item() == pytest.approx(0.5 * gaps.mean().item(), rel=1e-4)

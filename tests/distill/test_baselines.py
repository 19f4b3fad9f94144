from __future__ import annotations

import pytest
import torch
from tiny_world import features, multi_similarity, step_of
from torch.nn import functional as F

from dmkd.distill import METHODS, PRESETS, Kl, Rkd
from dmkd.distill.base import Shapes
from dmkd.errors import ConfigError


def test_baselines_weigh_the_base_loss_and_the_relation():
    torch.manual_seed(0)
    student, teacher = F.normalize(torch.randn(6, 4)), F.normalize(torch.randn(6, 9))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    shapes = Shapes(4, 1, teacher=Shapes(9, 1))
    terms = Kl(weight=7, metric=2).build(shapes, multi_similarity)(step_of(features(student), features(teacher), labels))
    p, q = (teacher @ teacher.T).softmax(1), (student @ student.T).softmax(1)
    assert terms["distillation"].item() == pytest.approx(7 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-4)
    assert terms["metric"].item() == pytest.approx(2 * multi_similarity(4)(student, labels).item(), rel=1e-6)
    assert set(Rkd(metric=0).build(shapes, multi_similarity)(step_of(features(student), features(teacher)))) == {"distillation"}
    with pytest.raises(ConfigError, match="nothing to train"):
        Rkd(metric=0, weight=0).build(shapes, multi_similarity)


def test_bar_has_the_published_weights():
    assert (PRESETS["bar"].weight, PRESETS["bar_cars"].weight) == (100, 50)


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.teacher == "pretrained"])
def test_a_missing_teacher_is_one_clear_line(name):
    with pytest.raises(ConfigError, match=r"teacher\.checkpoint"):
        METHODS[name]().build(Shapes(8, 6), multi_similarity)

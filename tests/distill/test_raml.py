from __future__ import annotations

import pytest
import torch
from tiny_world import features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.data.views import Views
from dmkd.distill import Raml
from dmkd.distill.base import Plan, Shapes
from dmkd.errors import ShapeError


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

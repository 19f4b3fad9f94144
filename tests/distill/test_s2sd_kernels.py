"""The kernels of S2SD's figure 3C against plain loops over Python numbers, their gradients against central differences."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_world import features, multi_similarity, step_of

from dmkd import space
from dmkd.distill import S2SD
from dmkd.distill.base import Shapes
from dmkd.distill.diffusion import Diffusion
from dmkd.distill.kernels import KERNELS, matrix_kl, means_kl, row_cosine, row_euclidean
from dmkd.errors import ConfigError


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def divergence(student, target, temperature, form):
    """KL of two lists of similarities, in the direction and with the factor of `form`."""
    q, p = (softmax([value / temperature for value in values]) for values in (student, target))
    if form == "paper":
        return sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def over_rows(student, target, form, value):
    total = sum(value(s, t) for s, t in zip(student, target, strict=True))
    return total if form == "paper" else total / len(student)


def cosine_gap(s, t):
    def length(x):
        return math.sqrt(sum(a * a for a in x))

    return 1 - sum(a * b for a, b in zip(s, t, strict=True)) / (length(s) * length(t))


def naive(kernel, student, target, temperature, form):
    """The kernel on lists of rows."""
    if kernel == "matrix":
        return divergence(*([x for row in rows for x in row] for rows in (student, target)), temperature, form)
    if kernel == "means":
        return divergence(*([sum(row) / len(row) for row in rows] for rows in (student, target)), temperature, form)
    values = {
        "rows": lambda s, t: divergence(s, t, temperature, form),
        "cosine": cosine_gap,
        "euclidean": math.dist,
    }
    return over_rows(student, target, form, values[kernel])


def similarities(rows, seed):
    x = torch.nn.functional.normalize(torch.randn(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return x @ x.T


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_its_loop_and_its_gradient_the_difference_quotient(kernel, temperature, form):
    student, target, step = similarities(4, 1).requires_grad_(), similarities(4, 2), 1e-5
    found = KERNELS[kernel](student, target, temperature, form)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(naive(kernel, student.tolist(), target.tolist(), temperature, form), rel=1e-10)
    found.backward()
    for i in range(4):
        for j in range(4):
            moved = [student.tolist(), student.tolist()]
            moved[0][i][j] += step
            moved[1][i][j] -= step
            up, down = (naive(kernel, rows, target.tolist(), temperature, form) for rows in moved)
            assert student.grad[i, j].item() == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_zero_with_zero_gradient_where_the_matrices_agree(kernel):
    student = similarities(5, 1).requires_grad_()
    found = KERNELS[kernel](student, student.detach(), 1.0, "released")
    found.backward()
    assert abs(found.item()) < 1e-12
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision_is_computed_in_float32(kernel):
    student, target = similarities(6, 1).bfloat16(), similarities(6, 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = KERNELS[kernel](student, target, 0.5, "released")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, KERNELS[kernel](student.float(), target.float(), 0.5, "released"), rtol=0, atol=0)


@pytest.mark.parametrize("term", [matrix_kl, means_kl, row_cosine, row_euclidean])
def test_an_unknown_form_is_refused(term):
    with pytest.raises(ConfigError, match="papr"):
        term(torch.eye(3), torch.eye(3), form="papr")


@pytest.mark.parametrize("kernel", KERNELS)
def test_s2sd_distils_by_the_chosen_kernel(kernel):
    """Both terms, from cosines; each target is a constant."""
    torch.manual_seed(0)
    method = S2SD(dims=(4, 6), feature_delay=0, kernel=kernel, weight=3.0, feature_weight=7.0, temperature=0.5)
    objective = method.build(Shapes(5, 6), multi_similarity).double()
    base, feature_map = torch.randn(6, 5).double().requires_grad_(), torch.randn(6, 6, 2, 2).double().requires_grad_()
    terms = objective(step_of(features(base, feature_map), labels=torch.arange(6) // 2))

    def cosines(x):
        unit = (x / x.norm(dim=1, keepdim=True)).detach()
        return (unit @ unit.T).tolist()

    pooled = feature_map.mean((2, 3))
    taught = [naive(kernel, cosines(base), cosines(x), 0.5, "released") for x in (*(h(pooled) for h in objective.heads), pooled)]
    assert terms["distillation"].item() == pytest.approx(3 * (taught[0] + taught[1]) / 2, rel=1e-9)
    assert terms["features"].item() == pytest.approx(7 * taught[2], rel=1e-9)
    (terms["distillation"] + terms["features"]).backward()
    assert base.grad.abs().max() > 0
    assert feature_map.grad is None


def test_diffusion_belongs_to_the_row_kernel():
    with pytest.raises(ConfigError, match=r"kernel=cosine.*diffusion\.enabled=false"):
        S2SD(kernel="cosine", diffusion=Diffusion(True)).build(Shapes(8, 6), multi_similarity)
    with pytest.raises(ConfigError, match=r"distillation=false.*diffusion\.enabled=false"):
        S2SD(distillation=False, diffusion=Diffusion(True)).build(Shapes(8, 6), multi_similarity)


def searched(**options):
    return {key for key in space.search_space(S2SD(**options)) if not key.startswith(("views", "batches"))}


def test_what_has_no_effect_is_not_searched():
    weights, diffusion = {"weight", "feature_weight"}, {"diffusion.enabled", "diffusion.omega"}
    assert searched() == weights | diffusion | {"temperature"}
    assert searched(kernel="matrix") == searched(kernel="means") == weights | {"temperature"}
    assert searched(kernel="cosine") == searched(kernel="euclidean") == weights
    assert searched(distillation=False) == searched(distillation=False, detached=True) == set()

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dmkd.distill.diffusion import Diffusion, batch_diffusion, diffuse, global_diffusion
from dmkd.distill.relations import distribution_kl, similarity_kl
from dmkd.errors import ConfigError
from dmkd.space import Range, build, search_space


def unit_rows(rows, dim, seed=0, positive=False):
    x = torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(x.abs() if positive else x)


def gram(x):
    return x @ x.T


@pytest.mark.parametrize("omega", ["0.3", "0.99"])
@pytest.mark.parametrize("kind", ["nonneg", "clip0"])
def test_the_papers_form_meets_its_goldens(golden, kind, omega):
    data = golden(f"obdp_paper_{kind}_w{omega}_B8")
    student, teacher = data.leaf("student"), data["teacher"]
    similarity, clip = teacher @ teacher.T, kind == "clip0"
    torch.testing.assert_close(diffuse(similarity, float(omega), clip), data["A"], rtol=1e-9, atol=1e-9)
    target = batch_diffusion(similarity, float(omega), form="paper", clip_negative=clip)
    torch.testing.assert_close(target, data["target"], rtol=1e-9, atol=1e-9)
    data.check(distribution_kl(student @ student.T, target), student=student)


def test_the_released_form_meets_its_golden(golden):
    data = golden("obdsd_kd_only_w0.3_B8")
    student, teacher = data.leaf("student"), data["teacher"]
    target = batch_diffusion(teacher @ teacher.T, 0.3)
    torch.testing.assert_close(target, data["target"], rtol=1e-9, atol=1e-9)
    data.check(distribution_kl(student @ student.T, target), student=student)


@pytest.mark.parametrize("case", ["cub_ep75", "cars_ep75", "sop_ep75", "tau0.5"])
def test_the_released_target_meets_its_goldens(golden, case):
    data = golden(f"obdsd_ms_{case}_B8")
    constants, teacher = data.constants, data["teacher"]
    diffusion = Diffusion(True, omega=constants["omega"], temperature=constants["diffusion_tau"])
    target = diffusion.target(teacher @ teacher.T, constants["tau"])
    torch.testing.assert_close(target, data["refined_target"], rtol=1e-9, atol=1e-9)


def test_global_diffusion_meets_its_golden(golden):
    data = golden("global_diffusion_N30_k6_w0.3")
    walk = global_diffusion(data["features"], neighbours=6, omega=0.3)
    torch.testing.assert_close(walk, data["rw_matrix"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(walk @ data["features"] @ data["features"].T, data["refined"], rtol=1e-5, atol=1e-5)


def test_released_rows_are_a_series_of_random_walks():
    """(1 - w) sum_k w^k W^k softmax(D / tau), summed until nothing is left: no inverse, no solver."""
    teacher = unit_rows(6, 4)
    similarity, omega, tau, tau_d = (teacher @ teacher.T).numpy(), 0.5, 0.7, 0.1

    def softmax(x):
        weights = np.exp(x - x.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    transition = softmax(np.where(np.eye(6) == 1, -np.inf, similarity / tau_d))
    term = (1 - omega) * softmax(similarity / tau)
    expected = np.zeros_like(term)
    for _ in range(200):
        expected += term
        term = omega * transition @ term
    found = batch_diffusion(torch.from_numpy(similarity), omega, tau, tau_d)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.sum(1).numpy(), 1, rtol=1e-12)


def minimise(objective, start):
    """The minimum of a quadratic by Newton's step, its matrix and slope by automatic differentiation."""
    slope = torch.autograd.functional.jacobian(objective, start)
    curvature = torch.autograd.functional.hessian(objective, start).reshape(start.numel(), start.numel())
    return start - torch.linalg.solve(curvature, slope.flatten()).view_as(start)


def equation_11(similarity, affinity, omega, printed):
    """Eq. 11; `printed` divides by V_ii too, as the text does."""
    degree = affinity.sum(1)

    def objective(a):
        scaled = a / degree.sqrt()
        if printed:
            scaled = scaled / degree.sqrt()[:, None]
        gaps = scaled[:, :, None] - scaled[:, None, :]
        return 0.5 * (affinity * gaps.square()).sum() + (1 - omega) / omega * (a - similarity).square().sum()

    return objective


@pytest.mark.parametrize("omega", [0.3, 0.9])
def test_equation_4_minimises_equation_11(omega):
    """With V_ii left out, whose place in the text is a slip, and transposed: the text's rows are Eq. 4's columns."""
    teacher = unit_rows(5, 4, positive=True)
    similarity = teacher @ teacher.T
    affinity = similarity * (1 - torch.eye(5, dtype=torch.float64))
    minimum = minimise(equation_11(similarity, affinity, omega, printed=False), torch.zeros_like(similarity))
    torch.testing.assert_close(diffuse(similarity, omega), minimum.T, rtol=1e-9, atol=1e-12)


def test_equation_11_as_printed_has_the_same_minimum_where_every_degree_is_one():
    points = torch.arange(5)
    ring = torch.tensor([1.0, 0.3, 0.2, 0.2, 0.3], dtype=torch.float64)[(points[:, None] - points) % 5]
    affinity = ring * (1 - torch.eye(5, dtype=torch.float64))
    minimum = minimise(equation_11(ring, affinity, 0.6, printed=True), torch.zeros_like(ring))
    torch.testing.assert_close(diffuse(ring, 0.6), minimum, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_one_anchor_is_equation_8():
    student, teacher = unit_rows(6, 4, 1), unit_rows(6, 4, 2)
    anchor = student[0].clone().requires_grad_()
    rows = torch.cat((anchor[None] / anchor.norm(), student[1:]))
    # The loss of anchor 0 alone: its own row, with the other embeddings held still.
    similarity_kl((rows[0] @ rows.detach().T)[None], (teacher[0] @ teacher.T)[None]).backward()
    z = student
    predicted, wanted = (z[0] @ z.T).softmax(0), (teacher[0] @ teacher.T).softmax(0)
    expected = sum((z[j] - (z[0] @ z[j]) * z[0]) * (predicted[j] - wanted[j]) for j in range(6))
    torch.testing.assert_close(anchor.grad - (anchor.grad @ z[0]) * z[0], expected, rtol=1e-9, atol=1e-12)


def test_a_diffused_target_pulls_even_where_student_and_teacher_agree():
    student = unit_rows(6, 4).requires_grad_()
    similarity = student @ student.T
    Diffusion(True, omega=0.99).kl(similarity, similarity).backward()
    assert student.grad.abs().max() > 1e-4
    assert Diffusion().kl(similarity.detach(), similarity.detach()).abs() < 1e-15


def test_the_released_form_is_not_the_text():
    similarity = gram(unit_rows(6, 4, positive=True))
    gap = batch_diffusion(similarity, 0.5) - batch_diffusion(similarity, 0.5, form="paper")
    assert gap.abs().max() > 1e-3


def test_a_negative_degree_is_refused_unless_clipped():
    teacher = unit_rows(6, 2, 3)
    similarity = teacher @ teacher.T
    assert (similarity.sum(1) - 1 < 0).any()
    with pytest.raises(ConfigError, match="clip_negative"):
        batch_diffusion(similarity, 0.3, form="paper")
    assert torch.isfinite(batch_diffusion(similarity, 0.3, form="paper", clip_negative=True)).all()


def test_a_row_without_neighbours_stays_finite():
    similarity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(diffuse(similarity, 0.4), 0.6 * similarity)


def test_rows_are_distributions_at_the_edges():
    teacher = unit_rows(112, 16).float()
    for omega, tau_d in ((0.99, 0.005), (0.01, 1.0)):
        target = batch_diffusion(teacher @ teacher.T, omega, 1.0, tau_d)
        assert (target >= 0).all()
        torch.testing.assert_close(target.sum(1), torch.ones(112), rtol=1e-4, atol=1e-4)


def test_disabled_is_the_plain_kernel():
    student, teacher = unit_rows(5, 3, 1), unit_rows(5, 6, 2)
    a, b = student @ student.T, teacher @ teacher.T
    torch.testing.assert_close(Diffusion().target(b, 0.5), (b / 0.5).softmax(1))
    for form in ("released", "paper"):
        torch.testing.assert_close(Diffusion().kl(a, b, 0.5, form), similarity_kl(a, b, 0.5, form))
        small = Diffusion(True, omega=1e-9).kl(a, b, 0.5, form)
        torch.testing.assert_close(small, similarity_kl(a, b, 0.5, form), rtol=1e-6, atol=1e-6)


def test_the_target_is_a_constant():
    student, teacher = unit_rows(5, 3, 1).requires_grad_(), unit_rows(5, 6, 2).requires_grad_()
    for diffusion in (Diffusion(), Diffusion(True, omega=0.5)):
        diffusion.kl(student @ student.T, teacher @ teacher.T).backward()
    assert teacher.grad is None


def test_diffusion_is_computed_in_float32():
    similarity = gram(unit_rows(6, 4)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = batch_diffusion(similarity, 0.9)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, batch_diffusion(similarity.float(), 0.9), rtol=0, atol=0)


def test_global_diffusion_leaves_a_lonely_point_alone():
    features = torch.cat((unit_rows(5, 3, positive=True), -unit_rows(1, 3, positive=True)))
    walk = global_diffusion(features, neighbours=3, omega=0.5)
    torch.testing.assert_close(walk[5], 0.5 * torch.eye(6, dtype=torch.float64)[5])


def test_omega_is_searched_only_where_diffusion_is_on():
    space = search_space(Diffusion(), "method.diffusion.")
    assert space["method.diffusion.omega"] == Range(0.01, 0.99, when=("method.diffusion.enabled", True))
    assert space["method.diffusion.enabled"].options == (False, True)
    for omega in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="omega"):
            build(Diffusion, {"omega": omega})


@pytest.mark.parametrize("omega", [1.0, 1.5, -0.1, float("nan")])
def test_an_omega_that_makes_no_walk_is_refused(omega):
    rows = unit_rows(5, 3, positive=True)
    for diffused in (
        lambda: batch_diffusion(gram(rows), omega),
        lambda: batch_diffusion(gram(rows), omega, form="paper"),
        lambda: global_diffusion(rows, 3, omega),
    ):
        with pytest.raises(ConfigError, match="omega"):
            diffused()

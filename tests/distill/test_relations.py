from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from dmkd.distill import relations
from dmkd.distill.relations import (
    absolute,
    attention,
    coupled_terms,
    darkrank,
    distribution_kl,
    hint,
    pkt,
    regression,
    relative,
    rkd,
    similarity_kl,
)


def paper(term):
    return lambda student, teacher: term(student, teacher, form="paper")


GOLDEN_TERMS = {
    "yu_absolute_B8_d6": absolute,
    "yu_relative_B8_d6_dT6": relative,
    "yu_relative_paper_B8_d6_dT6": paper(relative),
    "aml_regression_n4_d8": regression,
    "aml_regression_paper_n4_d8": paper(regression),
    "pkt_B8_d6_dT6": pkt,
    "aml_rkd_da_B8_d6_dT6": rkd,
    "aml_darkrank_B8_d6_dT6": darkrank,
    "aml_darkrank_paper_B8_d6_dT6": paper(darkrank),
}


@pytest.mark.parametrize("name", GOLDEN_TERMS)
def test_a_term_of_embeddings_meets_its_golden(golden, name):
    data = golden(name)
    student = data.leaf("student")
    data.check(GOLDEN_TERMS[name](student, data["teacher"]), student=student)


@pytest.mark.parametrize(("name", "term"), [("yu_hint_paper", hint), ("yu_attention_paper", attention)])
def test_a_term_of_feature_maps_meets_its_golden(golden, name, term):
    data = golden(name)
    student = data.leaf("student_fmap")
    data.check(term(student, data["teacher_fmap"]), student_fmap=student)


@pytest.mark.parametrize("temperature", ["0.2", "1.0", "2.0"])
def test_similarity_kl_meets_the_golden_of_s2sd(golden, temperature):
    data = golden(f"s2sd_kl_B8_T{temperature}")
    student, teacher = data.leaf("student"), data["teacher"]
    data.check(similarity_kl(student @ student.T, teacher @ teacher.T, temperature=float(temperature)), student=student)


def vectors(rows, dim, seed=0):
    return torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(row):
    weights = [math.exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 2.0])
def test_similarity_kl_is_the_double_sum(form, temperature):
    student, target = vectors(5, 5, 1), vectors(5, 5, 2)
    total = 0.0
    for i in range(5):
        p, q = softmax((target[i] / temperature).tolist()), softmax((student[i] / temperature).tolist())
        if form == "paper":
            p, q = q, p
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = total if form == "paper" else total / 5 * temperature**2
    assert similarity_kl(student, target, temperature, form).item() == pytest.approx(expected, rel=1e-12)
    rows = torch.tensor([softmax((row / temperature).tolist()) for row in target], dtype=torch.float64)
    assert distribution_kl(student, rows, temperature, form).item() == pytest.approx(expected, rel=1e-12)


def test_a_target_may_hold_zeros():
    student = vectors(3, 3).requires_grad_()
    loss = distribution_kl(student, torch.eye(3, dtype=torch.float64))
    loss.backward()
    expected = -np.mean([math.log(softmax(row)[i]) for i, row in enumerate(student.tolist())])
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert torch.isfinite(student.grad).all()


def test_relative_is_one_norm_of_the_whole_matrix_and_grows_with_the_batch():
    student, teacher = vectors(5, 3, 1), vectors(5, 9, 2)
    gaps = [(student[i] - student[j]).norm() - (teacher[i] - teacher[j]).norm() for i in range(5) for j in range(5)]
    assert relative(student, teacher).item() == pytest.approx(math.sqrt(sum(gap**2 for gap in gaps)), rel=1e-12)
    pairs = [abs(gaps[5 * i + j]) for i in range(5) for j in range(i)]
    assert relative(student, teacher, form="paper").item() == pytest.approx(float(sum(pairs)) / 10, rel=1e-12)
    twice = relative(student.repeat(2, 1), teacher.repeat(2, 1))
    assert twice.item() == pytest.approx(2 * relative(student, teacher).item(), rel=1e-9)


@pytest.mark.parametrize("term", [relative, paper(relative), rkd, pkt, darkrank, regression, absolute])
def test_equal_embeddings_give_a_finite_gradient(term):
    student = torch.nn.functional.normalize(vectors(6, 4)).requires_grad_()
    term(student, student.detach()).backward()
    assert torch.isfinite(student.grad).all()


def test_relative_has_no_gradient_where_the_matrices_agree():
    student = vectors(6, 4).requires_grad_()
    loss = relative(student, student.detach())
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("term", [relative, rkd, pkt, darkrank])
def test_duplicate_rows_of_the_student_keep_the_gradient_bounded(term):
    rows = vectors(6, 4)
    rows[1] = rows[0]
    student = rows.clone().requires_grad_()
    term(student, vectors(6, 5, 3)).backward()
    assert student.grad.abs().max() < 100


def test_rkd_is_the_loop_over_pairs_and_triplets():
    student, teacher = vectors(4, 3, 1), vectors(4, 5, 2)

    def huber(gap):
        return 0.5 * gap**2 if abs(gap) < 1 else abs(gap) - 0.5

    def parts(x):
        lengths = [[float((x[i] - x[j]).norm()) for j in range(4)] for i in range(4)]
        mean = sum(map(sum, lengths)) / 12
        angles = {
            (i, j, k): float((x[i] - x[j]) @ (x[k] - x[j])) / (lengths[i][j] * lengths[j][k])
            for i in range(4)
            for j in range(4)
            for k in range(4)
            if j not in (i, k)
        }
        return {(i, j): lengths[i][j] / mean for i in range(4) for j in range(4)}, angles

    (distances, angles), (wanted_distances, wanted_angles) = parts(student), parts(teacher)
    distance = sum(huber(distances[key] - wanted_distances[key]) for key in distances) / 16
    angle = sum(huber(angles[key] - wanted_angles[key]) for key in angles) / 64
    assert rkd(student, teacher).item() == pytest.approx(distance + 2 * angle, rel=1e-10)
    assert rkd(student, teacher, distance=3.0, angle=0.0).item() == pytest.approx(3 * distance, rel=1e-10)


@pytest.mark.parametrize("repeats", [1, 2, 6])
def test_equal_rows_stand_apart_by_the_floor_of_the_released_codes(repeats):
    """Spec 1.1 and 5.3: sqrt(max(d^2, 1e-12)) between two rows; so the mean of RKD is never 0, even in a collapsed batch."""
    student, teacher = vectors(6 // repeats, 4, 1).repeat(repeats, 1), vectors(6, 4, 2)

    def lengths(x):
        apart = [[max(float(np.linalg.norm(a - b)), 1e-6) for b in x] for a in x]
        return np.array(apart) * (1 - np.eye(len(x)))

    ours, theirs = lengths(student.numpy()), lengths(teacher.numpy())
    gap = ours / ours[ours > 0].mean() - theirs / theirs[theirs > 0].mean()
    huber = np.where(abs(gap) < 1, gap**2 / 2, abs(gap) - 0.5).mean()
    for a, b in ((student, teacher), (teacher, student)):
        assert relative(a, b).item() == pytest.approx(np.linalg.norm(ours - theirs), rel=1e-12)
        assert rkd(a, b, angle=0.0).item() == pytest.approx(huber, rel=1e-12)


@pytest.mark.parametrize("form", ["released", "paper"])
def test_darkrank_is_the_likelihood_of_the_teachers_permutation(form):
    """Over a whole list the probabilities of all permutations sum to 1, so the likelihood is checked as a probability."""
    student, teacher = vectors(5, 3, 1), vectors(5, 7, 2)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (student, teacher)]
    total = 0.0
    for anchor in range(5):
        others = [i for i in range(5) if i != anchor]
        if form == "paper":
            score = {i: float(unit[0][anchor] @ unit[0][i]) for i in others}
            order = sorted(others, key=lambda i: -float(unit[1][anchor] @ unit[1][i]))
        else:
            score = {i: -3 * float((student[anchor] - student[i]).norm()) ** 3 for i in others}
            order = sorted(others, key=lambda i: float((teacher[anchor] - teacher[i]).norm()))

        def likelihood(ranking, score=score):
            rest = [[math.exp(score[j]) for j in ranking[position:]] for position in range(4)]
            return math.prod(weights[0] / sum(weights) for weights in rest)

        assert sum(likelihood(ranking) for ranking in permutations(others)) == pytest.approx(1)
        total -= math.log(likelihood(order))
    expected = total if form == "paper" else total / 5
    assert darkrank(student, teacher, form=form).item() == pytest.approx(expected, rel=1e-9)


def test_darkrank_ranks_the_nearest_of_the_list_only():
    student, teacher = vectors(8, 3, 1), vectors(8, 3, 2)
    near = darkrank(student, teacher, list_size=2)
    distances = torch.cdist(teacher, teacher).fill_diagonal_(math.inf)
    scores = -3 * torch.cdist(student, student) ** 3
    expected = 0.0
    for anchor in range(8):
        first, second = distances[anchor].argsort()[:2]
        expected += math.log(1 + math.exp(scores[anchor, second] - scores[anchor, first])) / 8
    assert near.item() == pytest.approx(expected, rel=1e-7)


def test_pkt_normalises_the_whole_row_and_averages_over_all_entries():
    student, teacher = vectors(4, 3, 1).numpy(), vectors(4, 6, 2).numpy()

    def probabilities(x):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        kernel = (unit @ unit.T + 1) / 2
        return kernel / kernel.sum(1, keepdims=True)

    p, q = probabilities(teacher), probabilities(student)
    expected = (p * np.log((p + 1e-7) / (q + 1e-7))).sum() / 16
    assert pkt(torch.from_numpy(student), torch.from_numpy(teacher)).item() == pytest.approx(expected, rel=1e-5)


def test_attention_of_zagoruyko_is_the_mean_square_of_normalised_energy():
    student, teacher = vectors(6, 9).view(2, 3, 3, 3).numpy(), vectors(8, 9, 1).view(2, 4, 3, 3).numpy()

    def energy(x):
        cells = (x**2).mean(1).reshape(2, -1)
        return cells / np.linalg.norm(cells, axis=1, keepdims=True)

    expected = ((energy(student) - energy(teacher)) ** 2).mean()
    found = attention(torch.from_numpy(student), torch.from_numpy(teacher), form="zagoruyko")
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_coupled_terms_are_the_loops_over_views(reduction):
    student, teacher = vectors(6, 5, 1).view(2, 3, 5).numpy(), vectors(6, 5, 2).view(2, 3, 5).numpy()
    expected = dict.fromkeys(("abs", "rel_ts", "rel_ss"), 0.0)
    for s, t in zip(student, teacher, strict=True):
        for i in range(3):
            expected["abs"] += (1 - s[i] @ t[i] + 1e-6) ** 2 / 3
            for j in range(3):
                if i != j:
                    expected["rel_ts"] += (s[i] @ t[j] - t[i] @ t[j] + 1e-6) ** 2 / 6
                    expected["rel_ss"] += (s[i] @ s[j] - t[i] @ t[j] + 1e-6) ** 2 / 6
    found = coupled_terms(torch.from_numpy(student), torch.from_numpy(teacher), reduction)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value / (2 if reduction == "mean" else 1), rel=1e-12)


def test_one_view_has_no_relative_terms(golden):
    data = golden("raml_regression_B2")
    student = data.leaf("student")
    terms = coupled_terms(student[:, None], data["teacher"][:, None], reduction="sum")
    assert terms["rel_ts"].item() == terms["rel_ss"].item() == 0
    data.check(terms["abs"], student=student)


@pytest.mark.parametrize("name", ["absolute", "relative", "regression", "pkt", "rkd", "darkrank", "similarity_kl"])
def test_half_precision_is_computed_in_float32(name):
    term = getattr(relations, name)
    student, teacher = (torch.nn.functional.normalize(vectors(6, 6, seed)).bfloat16() for seed in (1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = term(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, term(student.float(), teacher.float()), rtol=0, atol=0)
    assert term(student.double(), teacher.double()).dtype == torch.float64

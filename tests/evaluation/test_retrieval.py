"""Retrieval metrics against goldens, peers and plain Python, with ties, duplicates, singletons, junk and bad input."""

from __future__ import annotations

from pathlib import Path

import naive_retrieval as naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.errors import ConfigError, DataError, ShapeError
from dmkd.evaluation import mean_average_precision, mean_average_precision_at_r, mean_precision_at_k, recall_at_k

GOLDENS = Path(__file__).parents[1] / "goldens"


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


def itself(n):
    return {"query_ids": np.arange(n), "gallery_ids": np.arange(n)}


def unit(rng, n, d):
    x = rng.standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_golden_of_the_fine_grained_sets():
    g = golden("metrics_A")
    r = (g["embeddings"], g["embeddings"], g["labels"], g["labels"])
    for k, value in recall_at_k(*r, k=(1, 2, 4, 8, 10), **itself(60)).items():
        assert value == pytest.approx(g[f"recall@{k}"], abs=1e-12)
    assert mean_average_precision_at_r(*r, **itself(60)) == pytest.approx(g["mAP_at_R_musgrave"], abs=1e-12)
    assert mean_average_precision_at_r(*r, form="released", **itself(60)) == pytest.approx(g["mAP_at_R_official"], abs=1e-12)


def test_golden_recall_of_yu():
    g = golden("metrics_yu_recall_A")
    recall = recall_at_k(g["embeddings"], g["embeddings"], g["labels"], g["labels"], k=(1, 2, 4, 8, 16), **itself(60))
    np.testing.assert_allclose(list(recall.values()), g["recall_1_2_4_8_16"], atol=1e-12)


@pytest.mark.parametrize(("side", "name"), [("student", "sym"), ("teacher", "asym")])
def test_golden_of_raml_where_the_query_or_its_teacher_copy_is_junk(side, name):
    g = golden("metrics_raml_A")
    r = (g["student"], g[side], g["labels"], g["labels"])
    ap = mean_average_precision(*r, form="trapezoidal", per_query=True, **itself(60))
    np.testing.assert_allclose(ap, g[f"{name}_AP"], atol=1e-12)
    assert mean_average_precision(*r, form="trapezoidal", **itself(60)) == pytest.approx(g[f"{name}_mAP"], abs=1e-12)
    at = [mean_average_precision(*r, form="trapezoidal", at=k, **itself(60)) for k in (1, 4, 8)]
    np.testing.assert_allclose(at, g[f"{name}_mAPk_1_4_8"], atol=1e-12)
    np.testing.assert_allclose(
        list(mean_precision_at_k(*r, k=(1, 4, 8), **itself(60)).values()), g[f"{name}_mP_1_4_8"], atol=1e-12
    )
    np.testing.assert_allclose(list(recall_at_k(*r, k=(1, 4, 8), **itself(60)).values()), g[f"{name}_recall_1_4_8"], atol=1e-12)


@st.composite
def layouts(draw):
    """Small integer vectors (their products are exact, and tie often), labels with singletons, ids and groups that repeat."""
    q, g = draw(st.integers(1, 12)), draw(st.integers(1, 14))
    vector = st.lists(st.integers(-2, 2), min_size=2, max_size=2)

    def numbers(n, top):
        return np.array(draw(st.lists(st.integers(0, top), min_size=n, max_size=n)))

    queries, gallery = (np.array(draw(st.lists(vector, min_size=n, max_size=n)), dtype=np.float32) for n in (q, g))
    ids, groups = (draw(st.booleans()), draw(st.booleans()))
    return (
        (queries, gallery, numbers(q, 4), numbers(g, 4)),
        {"query_ids": numbers(q, 6), "gallery_ids": numbers(g, 6)} if ids else {},
        {"query_groups": numbers(q, 2), "gallery_groups": numbers(g, 2)} if groups else {},
    )


@settings(max_examples=150, deadline=None)
@given(layouts())
def test_any_layout_gives_what_plain_python_gives(layout):
    r, ids, groups = layout
    places = naive.all_ranks(*r, [tuple(pair.values()) for pair in (ids, groups) if pair])
    some = [p for p in places if p]
    junk = ids | groups
    if not some:
        with pytest.raises(DataError, match="no query has a positive"):
            recall_at_k(*r, **junk)
        return
    for k, value in recall_at_k(*r, k=(1, 2, 3, 50), **junk).items():
        assert value == pytest.approx(np.mean([p[0] <= k for p in some]), abs=1e-12)
    for k, value in mean_precision_at_k(*r, k=(1, 2, 5), **junk).items():
        assert value == pytest.approx(np.mean([naive.precision_at(p, k) for p in some]), abs=1e-12)
    for form, ap in (("step", naive.step_ap), ("trapezoidal", naive.trapezoidal_ap)):
        each = [ap(p) if p else np.nan for p in places]
        np.testing.assert_allclose(mean_average_precision(*r, form=form, per_query=True, **junk), each, atol=1e-12)
        assert mean_average_precision(*r, form=form, **junk) == pytest.approx(np.nanmean(each), abs=1e-12)
        assert mean_average_precision(*r, form=form, at=2, **junk) == pytest.approx(np.mean([ap(p, 2) for p in some]), abs=1e-12)
    for form, extra in (("musgrave", 0), ("released", 1)):
        wanted = np.mean([naive.ap_at_r(p, len(p) + extra) for p in some])
        assert mean_average_precision_at_r(*r, form=form, **junk) == pytest.approx(wanted, abs=1e-12)


def test_step_ap_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    x, y = unit(rng, 70, 8).astype(np.float64), rng.integers(0, 6, 70)
    ap = mean_average_precision(x, x, y, y, per_query=True, **itself(70))
    for q in range(70):
        others = np.arange(70) != q
        assert ap[q] == pytest.approx(sklearn.average_precision_score(y[others] == y[q], (x @ x[q])[others]), abs=1e-10)


def test_the_calculator_of_pytorch_metric_learning_agrees():
    calculator_module = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    rng = np.random.default_rng(1)
    x, y = unit(rng, 200, 16), np.concatenate([rng.integers(0, 12, 195), np.arange(100, 105)])
    names = ("precision_at_1", "mean_average_precision_at_r", "mean_average_precision")
    calculator = calculator_module.AccuracyCalculator(include=names, k=199, device=torch.device("cpu"))
    peer = calculator.get_accuracy(torch.from_numpy(x), torch.from_numpy(y))
    assert recall_at_k(x, x, y, y, **itself(200))[1] == pytest.approx(peer["precision_at_1"], abs=1e-6)
    assert mean_average_precision_at_r(x, x, y, y, **itself(200)) == pytest.approx(peer["mean_average_precision_at_r"], abs=1e-6)
    assert mean_average_precision(x, x, y, y, **itself(200)) == pytest.approx(peer["mean_average_precision"], abs=1e-6)


def test_of_equal_similarities_the_earlier_position_comes_first():
    queries, gallery = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 5.0], [1.0, -3.0]])
    assert recall_at_k(queries, gallery, [7], [7, 1, 1], k=(1, 2)) == {1: 1.0, 2: 1.0}
    assert recall_at_k(queries, gallery, [7], [1, 7, 1], k=(1, 2)) == {1: 0.0, 2: 1.0}
    assert mean_average_precision(queries, gallery, [7], [1, 7, 7]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_collapsed_network_scores_by_chance_alone():
    x, y = np.ones((60, 4), np.float32), np.repeat(np.arange(20), 3)
    assert recall_at_k(x, x, y, y, **itself(60))[1] == pytest.approx(3 / 60)


def test_the_earlier_of_two_copies_wins_wherever_they_stand():
    """Odd numbers of rows and columns, where BLAS would round the last ones differently."""
    rng = np.random.default_rng(2)
    half = unit(rng, 501, 100)
    gallery, labels = np.concatenate([half, half, half[:1]]), np.repeat([0, 1], [501, 502])
    for n in (1, 3, 37, 501):
        queries = unit(rng, n, 100)
        assert recall_at_k(queries, gallery, np.zeros(n), labels)[1] == 1.0
        assert recall_at_k(queries, gallery, np.ones(n), labels, k=(1, 2)) == {1: 0.0, 2: 1.0}


def test_float64_is_kept():
    queries, gallery = np.array([[1.0, 1e-10]]), np.array([[1.0, 0.0], [1.0, 1.0]])
    assert recall_at_k(queries, gallery, [1], [0, 1])[1] == 1.0
    assert recall_at_k(queries.astype(np.float32), gallery.astype(np.float32), [1], [0, 1])[1] == 0.0


def test_tensors_and_arrays_give_the_same_and_per_query_comes_back_as_given():
    rng = np.random.default_rng(3)
    x, y = unit(rng, 40, 8), rng.integers(0, 5, 40)
    tensors = tuple(torch.from_numpy(a) for a in (x, x, y, y))
    ids = {name: torch.from_numpy(a) for name, a in itself(40).items()}
    arrays = mean_average_precision(x, x, y, y, per_query=True, **itself(40))
    got = mean_average_precision(*tensors, per_query=True, **ids)
    assert isinstance(got, torch.Tensor)
    assert got.dtype == torch.float64
    np.testing.assert_array_equal(got.numpy(), arrays)
    halves = (tensors[0].bfloat16(), tensors[0].bfloat16(), *tensors[2:])
    rounded = halves[0].float().numpy()
    assert recall_at_k(*halves, **ids) == recall_at_k(rounded, rounded, y, y, **itself(40))


def test_labels_and_ids_may_be_text():
    x = np.eye(3, dtype=np.float32)
    names = np.array(["a.jpg", "b.jpg", "c.jpg"])
    assert recall_at_k(x, x, ["cat", "cat", "dog"], ["cat", "cat", "dog"], k=(1, 2), query_ids=names, gallery_ids=names) == {
        1: 1.0,
        2: 1.0,
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": ()}, ConfigError, "k: found"),
        ({"k": 1}, ConfigError, "k: found 1, wanted whole numbers"),
        ({"k": (0,)}, ConfigError, "at least 1"),
        ({"k": (1.5,)}, ConfigError, "whole numbers"),
        ({"query_ids": np.arange(4)}, ShapeError, "only one of query_ids and gallery_ids"),
        ({"query_ids": np.arange(3), "gallery_ids": np.arange(4)}, ShapeError, r"query_ids: found shape \[3\], wanted \[4\]"),
        ({"gallery_groups": np.arange(4)}, ShapeError, "only one of query_groups"),
    ],
)
def test_bad_arguments_raise_one_clear_line(change, error, message):
    x, y = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
    with pytest.raises(error, match=message) as caught:
        recall_at_k(x, x, y, y, **change)
    assert "\n" not in str(caught.value)


def test_bad_vectors_raise_one_clear_line():
    x, y = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
    broken = x.copy()
    broken[2, 1] = np.nan
    with pytest.raises(DataError, match="gallery: 1 of 4 rows hold NaN"):
        recall_at_k(x, broken, y, y)
    with pytest.raises(ShapeError, match="queries have 4 dimensions, the gallery 3"):
        recall_at_k(x, x[:, :3], y, y)
    with pytest.raises(ShapeError, match=r"queries: found shape \[4\]"):
        recall_at_k(x[0], x, y, y)
    with pytest.raises(ShapeError, match="gallery: found shape"):
        recall_at_k(x, x[:0], y, y[:0])
    with pytest.raises(DataError, match="overflow float32"):
        recall_at_k(x * 1e30, x * 1e30, y, y)
    with pytest.raises(ConfigError, match="did you mean 'trapezoidal'"):
        mean_average_precision(x, x, y, y, form="trapezoid")
    with pytest.raises(ConfigError, match="form: unknown 'paper'"):
        mean_average_precision_at_r(x, x, y, y, form="paper")
    with pytest.raises(ConfigError, match="at least 1"):
        mean_average_precision(x, x, y, y, at=0)

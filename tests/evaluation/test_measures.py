"""Every metric by its logged name: against goldens, peers, plain Python; the cap on queries; memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import naive_retrieval as naive
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from dmkd.config import Config, config_hash
from dmkd.errors import ConfigError
from dmkd.evaluation import METRICS, Evaluation, evaluate, kmeans, nmi, products, r_precision
from dmkd.space import override

GOLDENS = Path(__file__).parents[1] / "goldens"
ALL = tuple(METRICS)


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


def itself(n):
    return {"query_ids": np.arange(n), "gallery_ids": np.arange(n)}


def case(n=120, classes=9):
    """Singletons, and copies of pictures under their own class."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, classes, n - 3), [50, 51, 52]])
    x = rng.standard_normal((max(60, classes), 12))[labels] + 2 * rng.standard_normal((n, 12))
    first = np.array([np.flatnonzero(labels == label)[0] for label in range(3)])
    last = np.array([np.flatnonzero(labels == label)[-1] for label in range(3)])
    x[last] = x[first]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), labels


def measured(x, y, *, metrics=ALL, training_classes=4, ids=None, gallery=None, **options):
    found, _ = evaluate(
        x,
        x if gallery is None else gallery,
        y,
        y,
        evaluation=Evaluation(metrics=metrics, **options),
        training_classes=training_classes,
        **(ids or itself(len(y))),
    )
    return found


def test_goldens_of_s2sd_and_obd_sd():
    g = golden("metrics_A")
    found = measured(g["embeddings"], g["labels"])
    assert found["mean_average_precision_at_r_released"] == pytest.approx(g["mAP_at_R_official"], abs=1e-12)
    assert found["embedding_density"] == pytest.approx(float(g["dists_intra_over_inter"]), rel=1e-6)
    assert found["spectral_decay"] == pytest.approx(float(g["rho_exact_full_drop0"]), abs=1e-9)
    assert found["trimmed_spectral_decay"] == pytest.approx(float(g["rho_exact_full_drop2"]), abs=1e-9)


def test_goldens_of_raml_at_its_own_depths():
    g = golden("metrics_raml_A")
    options = {"k": (1, 4, 8), "average_precision": "trapezoidal", "metrics": ("map_at_k", "mp_at_k")}
    for side, name in (("student", "sym"), ("teacher", "asym")):
        found = measured(g["student"], g["labels"], gallery=g[side], **options)
        np.testing.assert_allclose([found[f"map_at_{k}"] for k in (1, 4, 8)], g[f"{name}_mAPk_1_4_8"], atol=1e-12)
        np.testing.assert_allclose([found[f"mp_at_{k}"] for k in (1, 4, 8)], g[f"{name}_mP_1_4_8"], atol=1e-12)
        assert found["map"] == pytest.approx(g[f"{name}_mAP"], abs=1e-12)


def test_ranks_against_plain_python():
    x, y = case(1200, 3)
    found = measured(x[:200], y[:200], k=(2, 5))
    places = [p for p in naive.all_ranks(x[:200], x[:200], y[:200], y[:200], [(np.arange(200),) * 2]) if p]
    wanted = {
        "map_step": [naive.step_ap(p) for p in places],
        "map_trapezoidal": [naive.trapezoidal_ap(p) for p in places],
        "map_at_2": [naive.step_ap(p, 2) for p in places],
        "mp_at_5": [naive.precision_at(p, 5) for p in places],
        "r_precision": [sum(rank <= len(p) for rank in p) / len(p) for p in places],
        "mean_average_precision_at_r_released": [naive.ap_at_r(p, len(p) + 1) for p in places],
    }
    assert {name: found[name] for name in wanted} == pytest.approx({name: np.mean(each) for name, each in wanted.items()})
    assert r_precision(x[:200], x[:200], y[:200], y[:200], **itself(200)) == found["r_precision"]


def test_a_thousand_ranks_are_a_thousand():
    rng = np.random.default_rng(5)
    gallery, labels = rng.standard_normal((2500, 3)), rng.integers(0, 2, 2500)
    ids = {"query_ids": np.arange(3), "gallery_ids": np.arange(2500)}
    found, _ = evaluate(gallery[:3], gallery, labels[:3], labels, evaluation=Evaluation(metrics=ALL), **ids)
    rows = []
    for query in range(3):
        order = np.argsort(-(gallery @ gallery[query]), kind="stable")
        hits = labels[order[order != query]] == labels[query]
        precision = (np.cumsum(hits) / np.arange(1, 2500))[:1000][hits[:1000]]
        rows.append([precision.sum() / 1000, precision.sum() / (hits.sum() + 1)])
    assert hits.sum() > 1000
    assert [found["map_at_1000"], found["map_at_1000_released"]] == pytest.approx(np.mean(rows, axis=0), abs=1e-12)


def test_the_calculator_of_pytorch_metric_learning_agrees_with_copies_and_singletons():
    module = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    x, y = case(200)
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_average_precision")
    peer = module.AccuracyCalculator(include=names, k=199, device=torch.device("cpu")).get_accuracy(
        torch.from_numpy(x), torch.from_numpy(y)
    )
    found = measured(x, y)
    ours = [found[name] for name in ("recall_at_1", "r_precision", "mean_average_precision_at_r", "map_step")]
    assert ours == pytest.approx([peer[name] for name in names], abs=1e-6)


def test_clusters_are_those_of_the_classes_and_as_released_of_the_training_classes():
    sklearn = pytest.importorskip("sklearn.metrics")
    x, y = case()
    found = measured(x, y)
    assert found["nmi_clusters"] == len(np.unique(y)) == 12
    for suffix, clusters in (("", 12), ("_released", 4)):
        assignment = kmeans(x, clusters)
        assert found[f"nmi{suffix}"] == pytest.approx(sklearn.normalized_mutual_info_score(y, assignment))
        (_, fp), (fn, tp) = sklearn.cluster.pair_confusion_matrix(y, assignment)
        assert found[f"clustering_f1{suffix}"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    with pytest.raises(ConfigError, match="none are known"):
        measured(x, y, metrics=("nmi_released",), training_classes=0)


def test_a_metric_is_measured_once_whatever_asks_for_it_and_only_where_it_has_a_meaning():
    x, y = case()
    plain = measured(x, y, metrics=())
    assert list(measured(x, y))[: len(plain)] == list(plain)
    assert {name: measured(x, y)[name] for name in plain} == plain
    assert measured(x, y, metrics=("nmi",), nmi=False)["nmi"] == plain["nmi"] == nmi(y, kmeans(x, 12))
    symmetric = {name for name, metric in METRICS.items() if metric.symmetric}
    assert symmetric <= measured(x, y).keys()
    assert not symmetric & measured(x, y, gallery=2 * x).keys()
    with pytest.raises(ConfigError, match="did you mean 'spectral_decay'"):
        override(Config(), {"evaluation.metrics": ["spectral_decai"]})


def test_what_is_measured_beside_the_rest_names_no_other_configuration():
    beside = {"evaluation.metrics": ["map_step"], "evaluation.query_resolutions": [32], "evaluation.train": True}
    assert config_hash(override(Config(), beside)) == config_hash(Config())
    assert Evaluation(metrics=("map_step",)).protocol == Evaluation().protocol == ""
    assert Evaluation(max_queries=10000).protocol != ""


@pytest.mark.parametrize("tensors", [False, True])
def test_a_cap_draws_queries_and_keeps_the_gallery_and_the_space(tensors):
    x, y = case()
    r = (torch.from_numpy(x), torch.from_numpy(y)) if tensors else (x, y)
    groups = np.arange(len(y)) % 5
    options = {**itself(len(y)), "query_groups": groups, "gallery_groups": groups}
    whole, every = evaluate(r[0], r[0], r[1], r[1], evaluation=Evaluation(), **options)
    some, drawn = evaluate(r[0], r[0], r[1], r[1], evaluation=Evaluation(max_queries=40), **options)
    chosen = np.isin(every.query, drawn.query)
    assert 35 <= chosen.sum() == len(drawn.query) <= 40
    for name in ("label", "first_hit", "ap", "ap_at_r"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(every, name)[chosen])
    assert some["map"] == pytest.approx(every.ap[chosen].mean())
    assert some["nmi"] == whole["nmi"]
    assert evaluate(r[0], r[0], r[1], r[1], evaluation=Evaluation(max_queries=len(y)), **options)[0] == whole


def test_no_metric_needs_all_similarities_at_once(monkeypatch):
    x, y = case(3000, 600)
    monkeypatch.setattr(products, "BLOCK_MB", 1.0)
    measured(x[:60], y[:60])
    tracemalloc.start()
    measured(x, y, metrics=tuple(name for name in ALL if "nmi" not in name and "f1" not in name), nmi=False)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert peak < 8, f"{peak:.1f} MB; all similarities at once would take 34 MB"


class Largest(TorchFunctionMode):
    """Notes the most elements that a tensor has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_nor_does_another_device(monkeypatch):
    x, _ = case(2000)
    monkeypatch.setattr(products, "DEVICE_BLOCK_MB", 1.0)
    device = torch.device("cpu")
    with Largest() as largest:
        blocks = list(products._on_device(x, x, device, lambda _, block: len(block)))
    assert sum(blocks) == 2000
    assert max(x.size, 16 * 2000) <= largest.elements <= 2**18

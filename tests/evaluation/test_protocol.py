"""One evaluation: metrics, outcomes, Parquet, fingerprint; and that importing the package stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars
import pytest
import torch

import dmkd.evaluation
from dmkd.data import Data
from dmkd.data.datasets import load_dataset
from dmkd.errors import DataError
from dmkd.evaluation import (
    Evaluation,
    evaluate,
    even,
    kmeans,
    mean_average_precision,
    mean_average_precision_at_r,
    nmi,
    products,
    protocol_fingerprint,
    recall_at_k,
    write_outcomes,
)
from dmkd.evaluation.measure import Measure
from tests.pictures import make_folder

ROOT = Path(__file__).parents[2]


def case(n=90):
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, 8, n - 2), [50, 51]])
    x = rng.standard_normal((60, 12))[labels] + rng.standard_normal((n, 12))
    return x.astype(np.float32), labels, {"query_ids": np.arange(n), "gallery_ids": np.arange(n)}


def test_metrics_are_those_of_the_single_functions_and_the_means_of_the_outcomes():
    x, y, ids = case()
    metrics, outcomes = evaluate(x, x, y, y, evaluation=Evaluation(k=(1, 2, 10)), **ids)
    assert list(metrics) == [
        "recall_at_1",
        "recall_at_2",
        "recall_at_10",
        "map",
        "mean_average_precision_at_r",
        "r_precision",
        "nmi",
    ]
    for k, value in recall_at_k(x, x, y, y, k=(1, 2, 10), **ids).items():
        assert metrics[f"recall_at_{k}"] == value == (outcomes.first_hit <= k).mean()
    assert metrics["map"] == mean_average_precision(x, x, y, y, **ids) == outcomes.ap.mean()
    assert metrics["mean_average_precision_at_r"] == mean_average_precision_at_r(x, x, y, y, **ids) == outcomes.ap_at_r.mean()
    assert metrics["nmi"] == nmi(y, kmeans(x, len(np.unique(y))))
    assert outcomes.query.tolist() == list(range(88))
    np.testing.assert_array_equal(outcomes.label, y[:88])


def test_r_precision_by_hand():
    x = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    y = np.array([0, 1, 0, 0])
    metrics, outcomes = evaluate(x[:1], x, y[:1], y, evaluation=Evaluation(), query_ids=[0], gallery_ids=np.arange(4))
    assert metrics["r_precision"] == 0.5
    assert metrics["mean_average_precision_at_r"] == pytest.approx((1 / 2) / 2)
    assert metrics["map"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert outcomes.first_hit.tolist() == [2]


def test_nmi_belongs_to_symmetric_search_alone():
    x, y, ids = case()
    assert "nmi" in evaluate(x, x.copy(), y, y, evaluation=Evaluation(), **ids)[0]
    assert "nmi" not in evaluate(x, 2 * x, y, y, evaluation=Evaluation(), **ids)[0]
    assert "nmi" not in evaluate(x, x, y, y, evaluation=Evaluation(nmi=False), **ids)[0]


def test_the_form_of_average_precision_is_the_evaluations():
    x, y, ids = case()
    metrics, outcomes = evaluate(x, x, y, y, evaluation=Evaluation(average_precision="trapezoidal"), **ids)
    assert metrics["map"] == mean_average_precision(x, x, y, y, form="trapezoidal", **ids) == outcomes.ap.mean()
    assert metrics["map"] != mean_average_precision(x, x, y, y, **ids)


def test_the_strict_protocol_leaves_out_the_querys_group():
    x, y, ids = case()
    groups = np.arange(len(y)) % 3
    strict, _ = evaluate(x, x, y, y, evaluation=Evaluation(), query_groups=groups, gallery_groups=groups, **ids)
    hits = []
    for q in range(len(y)):
        allowed = np.flatnonzero(groups != groups[q])
        if (y[allowed] == y[q]).any():
            hits.append(y[allowed[np.argmax(x[allowed] @ x[q])]] == y[q])
    assert strict["recall_at_1"] == pytest.approx(np.mean(hits))


def test_tensors_give_the_same_outcomes():
    x, y, ids = case()
    arrays = evaluate(x, x, y, y, evaluation=Evaluation(), **ids)
    tensors = [torch.from_numpy(a) for a in (x, x, y, y)]
    got = evaluate(*tensors, evaluation=Evaluation(), **{name: torch.from_numpy(a) for name, a in ids.items()})
    assert got[0] == arrays[0]
    for name in ("query", "label", "first_hit", "ap", "ap_at_r"):
        np.testing.assert_array_equal(getattr(got[1], name), getattr(arrays[1], name))


CARD = torch.device("cuda")


class Card:
    """A card that is only declared: the engine hands it products, real tensors make them; the n-th finds its memory full."""

    def __init__(self, monkeypatch, full=0):
        self.asked, self.full, self.real = [], full, products._device_product
        monkeypatch.setattr(products, "_device_product", self)
        monkeypatch.setattr(products, "DEVICE_BLOCK_MB", 1e-6)

    def __call__(self, g, device):
        multiply = self.real(g, torch.device("cpu"))

        def product(*part):
            self.asked.append(device)
            if len(self.asked) == self.full:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB")
            return multiply(*part)

        return product


@pytest.mark.parametrize("full", [0, 1, 3])
def test_similarities_are_computed_where_asked_and_by_the_host_where_that_is_full(monkeypatch, full):
    x, y, ids = case(n=300)
    here = evaluate(x, x, y, y, evaluation=Evaluation(), **ids)
    card = Card(monkeypatch, full)
    there = evaluate(x, x, y, y, evaluation=Evaluation(), device=CARD, **ids)
    assert card.asked == [CARD] * (full or -(-len(x) // even.TILE))
    assert there[0] == here[0]
    for found, wanted in zip(vars(there[1]).values(), vars(here[1]).values(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_measure_compares_on_its_own_device(monkeypatch, tmp_path):
    part = load_dataset(Data(root=str(make_folder(tmp_path, classes=4, size=32))))
    x, card = torch.randn(len(part), 6, generator=torch.Generator().manual_seed(0)), Card(monkeypatch)
    measures = [Measure(part, Data(), Evaluation(nmi=False), device) for device in (torch.device("cpu"), CARD)]
    here, there = (measure.compare(x, x)[0] for measure in measures)
    assert set(card.asked) == {CARD}
    assert here == there


def test_outcomes_come_back_from_parquet(tmp_path):
    x, y, ids = case()
    _, outcomes = evaluate(x, x, y, y, evaluation=Evaluation(nmi=False), **ids)
    path = tmp_path / "evaluation" / "queries.parquet"
    write_outcomes(outcomes, path)
    frame = polars.read_parquet(path)
    assert frame.columns == ["query", "label", "first_hit", "ap", "ap_at_r"]
    for name in frame.columns:
        np.testing.assert_array_equal(frame[name].to_numpy(), getattr(outcomes, name))
    assert [file.name for file in path.parent.iterdir()] == ["queries.parquet"]
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_outcomes_that_cannot_be_written_say_so_and_leave_nothing(tmp_path):
    x, y, ids = case()
    _, outcomes = evaluate(x, x, y, y, evaluation=Evaluation(nmi=False), **ids)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the outcomes to") as caught:
        write_outcomes(outcomes, tmp_path / "file" / "queries.parquet")
    assert "\n" not in str(caught.value)
    (tmp_path / "taken.parquet").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        write_outcomes(outcomes, tmp_path / "taken.parquet")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "taken.parquet"]


def test_a_fingerprint_names_split_junk_rule_and_metric():
    variants = [
        protocol_fingerprint("a", "plain"),
        protocol_fingerprint("b", "plain"),
        protocol_fingerprint("a", "strict"),
        protocol_fingerprint("a", "plain", average_precision="trapezoidal"),
        protocol_fingerprint("a", "plain", quality="50:0/50:0"),
    ]
    assert len(set(variants)) == len(variants)
    assert variants[0] == protocol_fingerprint("a", "plain", average_precision="step")
    assert all(len(variant) == 16 and int(variant, 16) >= 0 for variant in variants)


def test_importing_the_package_imports_nothing_heavy_and_every_name_resolves():
    code = "import sys, dmkd.evaluation; print(sorted({'torch', 'numpy', 'faiss', 'polars'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    for name in set(dmkd.evaluation.__all__) - {"METRICS"}:
        assert callable(getattr(dmkd.evaluation, name))
    with pytest.raises(AttributeError, match="no attribute 'recall'"):
        dmkd.evaluation.recall  # noqa: B018

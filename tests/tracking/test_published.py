"""The printed numbers: complete, keyed without clashes, and found by what a user types."""

from __future__ import annotations

import csv
from collections import Counter

import polars as pl
import pytest

from tracking.errors import TrackingError
from tracking.published import FILE, PAPERS, configurations, find, load_published


def test_every_printed_number_is_there_as_printed() -> None:
    with FILE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    table = load_published()
    assert len(table) == len(lines) == 2338
    assert table["value"].to_list() == [float(line["value"]) for line in lines]
    assert Counter(table["paper"]) == Counter(line["paper"] for line in lines)
    assert set(table["paper"]) == set(PAPERS)
    assert table["uncertain"].sum() == 29


@pytest.mark.parametrize(
    ("key", "scores"),
    [
        ("s2sd/T1/cars196/msdf/ms/128", {"test/recall_at_1": 85.69, "test/nmi": 72.77}),
        ("yu2019/T1/cub200/yu_rel/triplet/512", {"test/recall_at_1": 58.0, "test/recall_at_16": 93.6}),
        (
            "aml/T2/roxford5k/regression/none/512/mobilenetv2",
            {"test/roxford5k_medium/map": 53.3, "test_asymmetric/roxford5k_hard/map": 26.5},
        ),
        ("raml/T2/cub200/raml/none/512/224", {"test_asymmetric/map": None, "test/recall_at_1": None}),
        ("raml/T2/cub200/teacher/triplet/512/448", {"test/map": None, "test_q158_g448/map": None}),
        ("aml/T7/rparis6k/aml_ms/ms/2048/mobilenetv2", {"test/rparis6k_hard/mp_at_10": None}),
        ("obdsd/T9/cars196/obd_sd/ms/128/noise=0.4", {"test/recall_at_1": None}),
        ("obdsd/T8/cub200/obd_sd/ms/128", {"train/embedding_density": 0.6291, "train/trimmed_spectral_decay": 0.0292}),
    ],
)
def test_a_key_holds_the_numbers_of_one_network(key: str, scores: dict[str, float | None]) -> None:
    rows = find(key=key)
    values = dict(zip(rows["score"], rows["value"], strict=True))
    for score, value in scores.items():
        assert score in values
        assert value is None or values[score] == value


def test_keys_name_one_configuration_each_and_no_score_twice() -> None:
    about = ["backbone", "teacher_backbone", "resolution", "variant", "base_loss", "dim", "method", "dataset"]
    table = load_published()
    assert len(configurations()) == table["key"].n_unique() == table.select("paper", "table", *about).n_unique() == 705
    scored = table.filter(pl.col("score").is_not_null())
    assert scored.select("key", "score").n_unique() == len(scored)
    assert not [key for key in table["key"].unique() if any(sign in key for sign in " ;()|&*?'\"")]


def test_filters_narrow_and_name_the_nearest() -> None:
    assert set(find(paper="raml", table="T3")["dataset"]) == {"cub200"}
    with pytest.raises(TrackingError, match="no row has 's2s': did you mean 's2sd'"):
        find(paper="s2s")
    with pytest.raises(TrackingError, match="did you mean 's2sd/T1/cars196/msdf/ms/128'"):
        find(key="s2sd/T1/cars196/msdf/ms/12")

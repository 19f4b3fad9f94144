"""Which runs are a row, and which row stands where."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.tracking.made_runs import TEST, VAL, order, outcomes, run, table
from tracking.errors import TrackingError
from tracking.leaderboard import best, leaderboard
from tracking.outcomes import query_values
from tracking.ranking import lower_is_better


def test_chosen_by_validation_reported_on_test_with_the_interval_over_seeds():
    frame = leaderboard(
        table(
            run("aaaaaaaa1111", val=0.30),
            run("bbbbbbbb1111", val=0.40),
            *(run("aaaaaaaa1111", seed, test=score) for seed, score in enumerate([0.50, 0.60, 0.70])),
            *(run("bbbbbbbb1111", seed, test=score) for seed, score in enumerate([0.20, 0.22])),
        )
    )
    assert order(frame) == [("b", 1), ("a", 2)]  # b was chosen, though a came out better on test
    first, second = frame.to_dicts()
    assert (first["validation"], first["test"], first["seeds"]) == (0.40, pytest.approx(0.21), 2)
    assert second["test_low"] == pytest.approx(0.6 - 4.302653 * 0.1 / math.sqrt(3))
    assert second["test_high"] == pytest.approx(0.6 + 4.302653 * 0.1 / math.sqrt(3))
    assert best(frame)["config_hash"] == "bbbbbbbb1111"
    assert best(frame)["run_id"] == "bbbbbbbb1111-final-0"
    assert second["final_runs"] == [f"aaaaaaaa1111-final-{seed}" for seed in range(3)]


def test_a_test_score_of_a_search_run_is_never_reported():
    frame = leaderboard(table(run("aaaaaaaa1111", val=0.3) | {TEST: 0.99}))
    assert frame["test"].to_list() == [None]
    assert frame["seeds"].to_list() == [0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_score_that_is_not_finite_stands_above_a_finite_one(bad):
    frame = leaderboard(table(run("aaaaaaaa1111", val=bad), run("bbbbbbbb1111", val=0.01)))
    assert order(frame) == [("b", 1), ("a", None)]
    frame = leaderboard(table(run("aaaaaaaa1111", 0, val=0.9), run("aaaaaaaa1111", 1, val=bad), run("bbbbbbbb1111", val=0.01)))
    assert order(frame) == [("b", 1), ("a", None)]  # nor a mean that leaves the bad seed out
    assert best(frame)["config_hash"][0] == "b"


@pytest.mark.parametrize(
    ("status", "reason", "shown"),
    [("FAILED", "", "failed"), ("KILLED", "pruned at epoch 3", "pruned"), ("RUNNING", "", "running")],
)
def test_only_finished_runs_are_ranked(status, reason, shown):
    stopped = run("aaaaaaaa1111", val=0.9, status=status) | {"tags.dmkd.status_reason": reason}
    frame = leaderboard(table(stopped, run("bbbbbbbb1111", val=0.1)))
    assert order(frame) == [("b", 1), ("a", None)]
    assert frame["status"].to_list() == ["finished", shown]
    assert frame["validation"].to_list() == [0.1, None]


def test_a_seed_counts_once_and_its_first_finished_run_counts():
    frame = leaderboard(
        table(
            run("aaaaaaaa1111", 0, val=0.8, start_time=1, run_id="x1", status="FAILED"),
            run("aaaaaaaa1111", 0, val=0.2, start_time=2, run_id="x2"),
            run("aaaaaaaa1111", 0, val=0.9, start_time=3, run_id="x3"),
            run("aaaaaaaa1111", 1, val=0.4, start_time=4, run_id="x4"),
        )
    )
    row = frame.row(0, named=True)
    assert row["validation"] == pytest.approx(0.3)
    assert row["search_runs"] == ["x2", "x4"]
    assert (row["runs"], row["failed"]) == (4, 1)


def test_folds_of_a_seed_are_different_runs():
    frame = leaderboard(
        table(*(run("aaaaaaaa1111", 0, val=0.2 * fold, run_id=f"f{fold}") | {"tags.dmkd.fold": str(fold)} for fold in (1, 2)))
    )
    assert frame["validation"].to_list() == [pytest.approx(0.3)]


def test_protocols_never_share_a_ranking():
    other = {"tags.dmkd.protocol": "p2"}
    frame = leaderboard(table(run("aaaaaaaa1111", val=0.9), run("bbbbbbbb1111", val=0.5) | other, run("cccccccc1111", val=0.1)))
    assert [(row["protocol"], *pair) for row, pair in zip(frame.to_dicts(), order(frame), strict=True)] == [
        ("p1", "a", 1),
        ("p1", "c", 2),
        ("p2", "b", 1),
    ]
    with pytest.raises(TrackingError, match="2 protocols"):
        best(frame)


def test_one_configuration_under_two_protocols_is_two_rows_each_with_its_own_final_stage():
    def sweep(name: str, val: float, test: float) -> list[dict[str, Any]]:
        tags = {"tags.dmkd.sweep": name, "tags.dmkd.protocol": name}
        return [run("aaaaaaaa1111", val=val, run_id=f"{name}s") | tags, run("aaaaaaaa1111", test=test, run_id=f"{name}f") | tags]

    frame = leaderboard(table(*sweep("p1", 0.3, 0.31), *sweep("p2", 0.5, 0.51)))
    assert [(row["validation"], row["test"]) for row in frame.to_dicts()] == [(0.3, 0.31), (0.5, 0.51)]
    assert frame["id"].n_unique() == 2


def test_search_and_final_stage_of_one_sweep_are_one_table_though_their_splits_differ():
    """The final stage trains on all classes, so its fingerprint is another; rows without one still stand beside those with."""
    final = {"tags.dmkd.protocol": "q1"}
    frame = leaderboard(
        table(
            run("aaaaaaaa1111", val=0.3),
            run("aaaaaaaa1111", test=0.5) | final,
            run("bbbbbbbb1111", val=0.2),
            run("eeeeeeee1111", test=0.1) | final | {"tags.dmkd.reference": "untrained"},
        )
    )
    assert order(frame) == [("a", 1), ("b", 2), ("e", None)]
    assert set(frame["protocol"]) == {"p1+q1"}


def test_references_are_shown_and_only_an_undistilled_student_is_a_candidate():
    kinds = {"a": "teacher", "b": "untrained", "c": "undistilled", "d": None}
    runs = [
        run(f"{name * 8}1111", val=0.9 - place / 10) | {"tags.dmkd.reference": kind}
        for place, (name, kind) in enumerate(kinds.items())
    ]
    frame = leaderboard(table(*runs))
    assert order(frame) == [("c", 1), ("d", 2), ("a", None), ("b", None)]
    assert frame["label"].to_list()[2].startswith("teacher")


def test_two_references_of_a_kind_are_told_apart():
    teacher = {"tags.dmkd.reference": "teacher", "tags.dmkd.label": "teacher"}
    small = teacher | {"tags.dmkd.label": "teacher, student's resolution"}
    board = leaderboard(table(run("aaaaaaaa1111", val=0.3) | teacher, run("bbbbbbbb1111", val=0.2) | small))
    assert dict(board.select("config_hash", "label").iter_rows()) == {
        "aaaaaaaa1111": "teacher",
        "bbbbbbbb1111": "teacher, student's resolution",
    }


def test_the_id_of_a_row_does_not_change_when_its_final_stage_or_other_rows_arrive():
    few = leaderboard(table(run("aaaaaaaa1111", val=0.3)))
    more = leaderboard(
        table(
            run("aaaaaaaa1111", val=0.3),
            run("aaaaaaaa1111", test=0.5) | {"tags.dmkd.protocol": "q"},
            run("bbbbbbbb1111", val=0.9),
        )
    )
    assert few["id"][0] == more["id"][1]
    assert few["id"][0][:6] == "aaaaaa"
    assert len(few["id"][0]) == 8


def test_lower_is_better_where_the_name_says_so():
    assert lower_is_better("val/loss")
    assert not lower_is_better("val/recall_at_1")
    runs = table(run("aaaaaaaa1111") | {"metrics.val/loss": 2.0}, run("bbbbbbbb1111") | {"metrics.val/loss": 1.0})
    assert order(leaderboard(runs, "val/loss", "test/loss")) == [("b", 1), ("a", 2)]


def test_equal_scores_share_a_place():
    frame = leaderboard(table(*(run(f"{name * 8}1111", val=val) for name, val in zip("abcd", [0.3, 0.2, 0.2, 0.1], strict=True))))
    assert order(frame) == [("a", 1), ("b", 2), ("c", 2), ("d", 4)]


def test_rows_that_no_paired_test_tells_from_the_leader_share_its_rank():
    generator = np.random.default_rng(0)
    base = generator.random(200) < 0.6
    flips = {"a": 0.0, "b": 0.5, "c": 0.02}  # b loses half of its hits, c loses and wins one query in fifty
    runs, seen = [], {}
    for place, (name, flip) in enumerate(flips.items()):
        row = f"{name * 8}1111"
        runs.append(run(row, val=0.5 - place / 10))
        for seed in (0, 1):
            flipped = generator.random(200) < flip
            hits = base & ~flipped if name == "b" else base ^ flipped
            runs.append(run(row, seed, test=float(hits.mean())))
            seen[f"{row}-final-{seed}"] = outcomes(hits)
    frame = leaderboard(table(*runs), outcomes=seen)
    assert order(frame) == [("a", 1), ("c", 1), ("b", 3)]
    assert frame["p_leader"][2] < 0.01
    for row in frame.to_dicts():
        assert row["class_low"] < row["test"] < row["class_high"]
    assert order(leaderboard(table(*runs))) == [("a", 1), ("b", 2), ("c", 3)]


def test_outcomes_that_do_not_give_the_logged_score_are_of_another_role_and_not_used():
    hits = np.random.default_rng(0).random(200) < 0.5
    runs = table(run("aaaaaaaa1111", val=0.5), run("aaaaaaaa1111", test=float(hits.mean())))
    for wrong, used in ((False, True), (True, False)):
        seen = {"aaaaaaaa1111-final-0": outcomes(~hits[:150] if wrong else hits)}
        assert math.isfinite(leaderboard(runs, outcomes=seen)["class_low"][0]) == used


def test_outcomes_reproduce_the_metric_they_stand_for():
    found = {"query": [0, 1, 2], "label": [0, 0, 1], "first_hit": [1, 3, 9], "ap": [1.0, 0.5, 0.1], "ap_at_r": [0.9, 0.2, 0.0]}
    assert query_values(found, "test/recall_at_1").mean() == pytest.approx(1 / 3)
    assert query_values(found, "test/recall_at_4").mean() == pytest.approx(2 / 3)
    assert query_values(found, "test/map").mean() == pytest.approx(1.6 / 3)
    assert query_values(pl.DataFrame(found), "test/mean_average_precision_at_r").mean() == pytest.approx(1.1 / 3)
    assert query_values(found, "test/nmi") is None


def test_parents_and_strangers_are_no_rows_and_nothing_is_an_empty_board():
    parent = {"run_id": "p", "status": "FINISHED", "start_time": 1, "tags.dmkd.sweep": "s"}
    frame = leaderboard(table(parent))
    assert frame.height == 0
    with pytest.raises(TrackingError, match="no row is ranked"):
        best(frame)


def test_ten_thousand_runs_with_bad_metrics_and_failures_none_of_them_above_a_finite_one():
    chance = np.random.default_rng(0)
    size = 10_000
    values = chance.random(size)
    kind = chance.integers(0, 8, size)
    scores: list[float | None] = values.tolist()
    for place in range(size):
        scores[place] = {0: math.nan, 1: math.inf, 2: -math.inf, 3: None}.get(int(kind[place]), scores[place])
    runs = pl.DataFrame(
        {
            "run_id": [f"run{place}" for place in range(size)],
            "status": np.where(kind == 4, "FAILED", np.where(kind == 5, "KILLED", "FINISHED")),
            "start_time": np.arange(size),
            "tags.dmkd.row": [f"{place // 3:012x}" for place in range(size)],  # three seeds a row
            "tags.dmkd.config_hash": [f"{place // 3:012x}" for place in range(size)],
            "tags.dmkd.seed": [str(place % 3) for place in range(size)],
            "tags.dmkd.stage": ["search"] * size,
            "tags.dmkd.protocol": ["p"] * size,
            VAL: pl.Series(scores, dtype=pl.Float64),
            TEST: pl.Series([None] * size, dtype=pl.Float64),
        }
    )
    frame = leaderboard(runs)
    expected: dict[str, list[float]] = {}
    for place in range(size):
        if kind[place] not in (3, 4, 5):
            expected.setdefault(f"{place // 3:012x}", []).append(scores[place] or 0.0)
    means = {name: sum(own) / len(own) for name, own in expected.items()}
    finite = {name for name, own in expected.items() if all(map(math.isfinite, own))}
    ranked = frame.filter(pl.col("rank").is_not_null())
    assert set(ranked["config_hash"]) == finite
    assert ranked["config_hash"].to_list() == frame["config_hash"].head(len(finite)).to_list()  # none stands above them
    assert ranked["validation"].is_sorted(descending=True)
    assert ranked["validation"].to_list() == pytest.approx([means[name] for name in ranked["config_hash"]])
    assert best(frame)["validation"] == pytest.approx(max(means[name] for name in finite))

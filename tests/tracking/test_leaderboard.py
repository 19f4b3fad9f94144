from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest

from tracking.errors import TrackingError
from tracking.leaderboard import best, boards, leaderboard
from tracking.outcomes import query_values
from tracking.ranking import lower_is_better
from tracking.render import render

VAL, TEST = "metrics.val/recall_at_1", "metrics.test/recall_at_1"


def run(row: str, seed: int = 0, *, val: float | None = None, test: float | None = None, **given: Any) -> dict[str, Any]:
    """One row of `load_runs`: a search run where `val` is given, a final run where `test` is."""
    stage = "final" if test is not None else "search"
    own = row if stage == "search" else f"{row[:4]}ffff{seed:04d}"
    base = {"run_id": f"{row}-{stage}-{seed}", "status": "FINISHED", "start_time": 1000 + seed, "tags.dmkd.row": row}
    base |= {"tags.dmkd.config_hash": own, "tags.dmkd.stage": stage, "tags.dmkd.seed": str(seed), "tags.dmkd.method": "yu"}
    return base | {"tags.dmkd.protocol": "p1", "params.method.weight": row[:1], VAL: val, TEST: test} | given


def table(*runs: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(runs), infer_schema_length=None)


def order(frame: pl.DataFrame) -> list[tuple[str, int | None]]:
    return [(row["config_hash"][0], row["rank"]) for row in frame.to_dicts()]


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


@pytest.mark.parametrize(
    ("select", "report", "text"),
    [
        ("test/recall_at_1", "test/recall_at_1", "chosen on validation"),
        ("val_asymmetric/map", "test/map", "roles are separate tables"),
    ],
)
def test_choosing_on_test_or_mixing_roles_is_refused(select, report, text):
    with pytest.raises(TrackingError, match=text):
        leaderboard(table(run("aaaaaaaa1111", val=0.3)), select, report)


def test_roles_are_separate_boards():
    asymmetric = run("bbbbbbbb1111") | {"metrics.val_asymmetric/recall_at_1": 0.7, "metrics.test_asymmetric/recall_at_1": None}
    runs = table(run("aaaaaaaa1111", val=0.3), asymmetric)
    assert boards(runs) == [
        ("val/recall_at_1", "test/recall_at_1"),
        ("val_asymmetric/recall_at_1", "test_asymmetric/recall_at_1"),
    ]
    symmetric, other = (leaderboard(runs, *pair) for pair in boards(runs))
    assert (order(symmetric), symmetric["role"][0]) == ([("a", 1)], "symmetric")
    assert (order(other), other["role"][0]) == ([("b", 1)], "asymmetric")


def test_the_gallery_has_the_resolution_of_the_teacher_as_set_or_as_the_run_knew_it():
    scores = {"metrics.val_asymmetric/recall_at_1": 0.7, "params.student.resolution": "48"}
    own = run("aaaaaaaa1111") | scores | {"params.teacher.resolution": "0", "metrics.model/gallery_resolution": 96.0}
    given = run("bbbbbbbb1111") | scores | {"params.teacher.resolution": "64", "metrics.model/gallery_resolution": 64.0}
    older = run("cccccccc1111") | scores | {"params.teacher.resolution": "0"}
    board = leaderboard(table(own, given, older), "val_asymmetric/recall_at_1", "test_asymmetric/recall_at_1").sort("id")
    assert board["gallery_resolution"].to_list() == [96.0, 64.0, None]
    assert "48/96" in render(board)


def test_group_by_keeps_the_best_row_of_each_value():
    backbones = {"a": "r18", "b": "r50", "c": "r18"}
    runs = table(
        *(run(f"{n * 8}1111", val=v) | {"params.student.backbone": backbones[n]} for n, v in (("a", 0.3), ("b", 0.2), ("c", 0.4)))
    )
    frame = leaderboard(runs, group_by="student.backbone")
    assert [(row["group"], row["config_hash"][0], row["rank"]) for row in frame.to_dicts()] == [("r18", "c", 1), ("r50", "b", 2)]
    with pytest.raises(TrackingError, match="no such column"):
        leaderboard(runs, group_by="nonsense")


def test_a_group_that_the_name_begins_with_is_not_said_twice():
    raml = run("aaaaaaaa1111", val=0.3) | {"tags.dmkd.method": "raml", "params.student.resolution": "48"}
    assert "raml: " not in render(leaderboard(table(raml), group_by="method"), "md")
    assert "| 48: raml |" in render(leaderboard(table(raml), group_by="resolution"), "md")


def test_cost_size_and_looks_are_told():
    costs = {
        "metrics.cost/gpu_seconds": 1800.0,
        "metrics.cost/train_seconds": 3600.0,
        "metrics.model/gflops": 0.4,
        "metrics.test_looks": 1.0,
    }
    again = run("aaaaaaaa1111", 0, test=0.5, run_id="again", start_time=5000) | costs
    frame = leaderboard(
        table(
            run("aaaaaaaa1111", 0, val=0.3),
            run("aaaaaaaa1111", 0, test=0.5) | costs,
            run("aaaaaaaa1111", 1, test=0.5) | costs,
            again,
        )
    )
    row = frame.row(0, named=True)
    assert (row["gpu_hours"], row["cpu_hours"], row["gflops"]) == (1.5, 1.5, 0.4)
    assert row["test_looks"] == 2  # seed 0 was looked at twice
    assert row["seeds"] == 2


def test_labels_name_what_differs_within_a_method():
    s2sd = {"tags.dmkd.method": "s2sd", "params.method.weight": None, "params.method.temperature": "0.123456"}
    frame = leaderboard(table(run("aaaaaaaa1111", val=0.3), run("bbbbbbbb1111", val=0.2), run("cccccccc1111", val=0.1) | s2sd))
    assert frame["label"].to_list() == ["yu weight=a", "yu weight=b", "s2sd"]


def outcomes(hits: np.ndarray) -> dict[str, np.ndarray]:
    """Queries of 40 classes, 5 each; a hit is a first positive at rank 1."""
    zeros = np.zeros(hits.size)
    return {
        "query": np.arange(hits.size),
        "label": np.arange(hits.size) // 5,
        "first_hit": np.where(hits, 1, 3),
        "ap": zeros,
        "ap_at_r": zeros,
    }


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


def references() -> list[dict[str, Any]]:
    scores = {"undistilled": 0.3, "teacher": 0.7, "untrained": 0.1}
    return [run(f"{kind[:4]}eeee1111", test=score) | {"tags.dmkd.reference": kind} for kind, score in scores.items()]


def test_the_share_of_the_teacher_gap_is_that_of_the_references_of_the_same_table():
    rows = {row["label"]: row for row in leaderboard(table(run("aaaaaaaa1111", test=0.5), *references())).to_dicts()}
    assert rows["yu"]["gap_closed"] == pytest.approx(0.5)
    assert rows["teacher"]["gap_closed"] == pytest.approx(1.0)
    without = table(run("aaaaaaaa1111", test=0.5), *[one for one in references() if one["tags.dmkd.reference"] != "teacher"])
    assert leaderboard(without)["gap_closed"].null_count() == 3
    worse = [one | ({VAL: None, TEST: 0.2} if one["tags.dmkd.reference"] == "teacher" else {}) for one in references()]
    assert leaderboard(table(run("aaaaaaaa1111", test=0.5), *worse))["gap_closed"].null_count() == 4


def test_hours_of_the_search_are_those_of_every_trial_and_unequal_budgets_are_marked():
    hour = {"metrics.cost/gpu_seconds": 3600.0, "metrics.cost/train_seconds": 3600.0, "tags.dmkd.sweep": "s"}
    runs = table(
        run("aaaaaaaa1111", val=0.5, **hour),
        run("aaaaaaaa1111", test=0.4, **hour),
        run("bbbbbbbb1111", val=0.4, **hour),
        run("cccccccc1111", val=0.3, **hour | {"status": "KILLED"}),
        run("dddddddd1111", val=0.2, **hour | {"tags.dmkd.method": "s2sd"}),
    )
    frame = leaderboard(runs)
    first = frame.row(0, named=True)
    assert (first["gpu_hours"], first["search_gpu_hours"], first["trials"]) == (2.0, 4.0, 3)
    text = render(frame)
    assert "search budgets differ, trials a method: yu 3, s2sd 1" in text
    assert "its search took 4 GPU hours" in text
    assert "search budgets differ" not in render(leaderboard(runs.filter(pl.col("tags.dmkd.method") == "yu")))


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["method=y*"], "ab"),
        (["student.resolution<=48"], "ac"),
        (["resolution>32", "method!=s2sd"], "b"),
        (["optim.lr>=1e-3"], "bc"),
        (["seeds>=1"], ""),
        (["backbone=r18"], "c"),
    ],
)
def test_conditions_choose_rows_and_leave_the_references(conditions, left):
    rows = {"a": ("32", "yu", "1e-4", None), "b": ("64", "yu", "1e-3", None), "c": ("48", "s2sd", "0.1", "r18")}
    runs = [
        run(f"{name * 8}1111", val=0.5)
        | {"params.student.resolution": size, "tags.dmkd.method": method, "params.optim.lr": lr, "params.student.backbone": net}
        for name, (size, method, lr, net) in rows.items()
    ]
    frame = leaderboard(table(*runs, *references()), where=conditions)
    assert "".join(sorted(row["config_hash"][0] for row in frame.to_dicts() if not row["reference"])) == left
    assert frame["reference"].drop_nulls().len() == 3


def test_a_condition_that_means_nothing_is_refused():
    runs = table(run("aaaaaaaa1111", val=0.5) | {"params.student.resolution": "48"})
    with pytest.raises(TrackingError, match="wanted KEY=VALUE"):
        leaderboard(runs, where=["method"])
    with pytest.raises(TrackingError, match=r"did you mean 'student\.resolution'"):
        leaderboard(runs, where=["student.resolutoin<4"])


@pytest.mark.parametrize(
    ("key", "groups"), [("method", ["s2sd", "yu"]), ("backbone", ["r18", "r50"]), ("resolution", ["48", "64"])]
)
def test_rows_are_grouped_by_what_people_call_a_column(key, groups):
    runs = table(
        run("aaaaaaaa1111", val=0.5) | {"params.student.backbone": "r18", "params.student.resolution": "48"},
        run("bbbbbbbb1111", val=0.6)
        | {"tags.dmkd.method": "s2sd", "params.student.backbone": "r50", "params.student.resolution": "64"},
        run("cccccccc1111", val=0.4) | {"params.student.backbone": "r18", "params.student.resolution": "48"},
    )
    assert sorted(leaderboard(runs, group_by=key)["group"]) == groups


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

"""What a board's rows say: roles, groups, costs, labels, gaps, budgets; and which rows are asked for."""

from __future__ import annotations

import polars as pl
import pytest

from tests.tracking.made_runs import TEST, VAL, order, references, run, table
from tracking.errors import TrackingError
from tracking.leaderboard import boards, leaderboard
from tracking.render import render


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
    assert (row["gpu_hours"], row["cpu_hours"], row["gflops"]) == (1.5, 0.0, 0.4)  # half a card each
    assert row["test_looks"] == 2  # seed 0 was looked at twice
    assert row["seeds"] == 2


def test_hours_of_a_run_are_those_of_its_card_or_else_of_its_cpus():
    card = {"metrics.cost/gpu_seconds": 900.0, "metrics.cost/train_seconds": 3600.0, "tags.dmkd.sweep": "s"}
    host = {"metrics.cost/gpu_seconds": None, "metrics.cost/train_seconds": 1800.0, "tags.dmkd.sweep": "s"}
    runs = [
        run("aaaaaaaa1111", 0, val=0.3, **card),
        run("aaaaaaaa1111", 1, val=0.3, **host),
        run("aaaaaaaa1111", 0, test=0.5, **card),
    ]
    row = leaderboard(table(*runs)).row(0, named=True)
    assert (row["gpu_hours"], row["cpu_hours"]) == (0.5, 0.5)
    assert (row["search_gpu_hours"], row["search_cpu_hours"]) == (0.25, 0.5)


def test_labels_name_what_differs_within_a_method():
    s2sd = {"tags.dmkd.method": "s2sd", "params.method.weight": None, "params.method.temperature": "0.123456"}
    frame = leaderboard(table(run("aaaaaaaa1111", val=0.3), run("bbbbbbbb1111", val=0.2), run("cccccccc1111", val=0.1) | s2sd))
    assert frame["label"].to_list() == ["yu weight=a", "yu weight=b", "s2sd"]


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

from __future__ import annotations

import csv
import io
import json
import math

import polars as pl
import pytest

from tests.tracking.made_runs import run, table
from tracking.errors import TrackingError
from tracking.leaderboard import leaderboard
from tracking.render import parquet, render


@pytest.fixture
def frame():
    wide = {f"params.method.a_rather_long_name_{n}": "0.123456789" for n in range(6)}
    size = {
        "metrics.model/gflops": 0.3871,
        "metrics.model/parameters": 3_400_000.0,
        "params.student.resolution": "48",
        "metrics.model/dim": 128.0,
    }
    second = dict.fromkeys(wide, "7") | size | {"tags.dmkd.protocol": "p1"}
    return leaderboard(
        table(
            run("aaaaaaaa1111", val=0.3456) | wide | size,
            *(run("aaaaaaaa1111", seed, test=0.2 + seed / 10) | wide | size for seed in (0, 1)),
            run("bbbbbbbb1111", val=0.25) | second,
            run("cccccccc1111", val=0.9, status="KILLED") | second | {"tags.dmkd.status_reason": "pruned at epoch 2"},
            run("dddddddd1111", val=math.nan) | second,
        )
    )


def test_table_is_in_percent_and_never_wider_than_the_terminal(frame):
    text = render(frame.with_columns(gflops=pl.Series([0.3871, 1.5, None, 2.0])))
    assert max(map(len, text.splitlines())) <= 120
    first = next(line for line in text.splitlines() if "aaaaaa" in line)
    assert "34.6" in first
    assert "25.0 ± 63.5" in first  # t(1) = 12.706, half width 12.706 * 0.0707 / sqrt(2)
    assert "0.387" in first
    assert "cccccc" not in text
    assert "1 pruned" in text
    assert "nan" in next(line for line in text.splitlines() if "dddddd" in line)


def test_what_all_rows_share_is_told_once_and_leaves_room_for_the_configuration(frame):
    text = render(frame)
    assert "every row: 0.387 GFLOPs, 3.4 million parameters, 128 dimensions, 48 px" in text
    assert "a_rather_long_name_0=0.123 a_rather_long" in text


def test_markdown_has_the_same_cells(frame):
    lines = [line for line in render(frame, "md").splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "25.0 ± 63.5" in lines[2]


def test_csv_and_json_hold_every_row_as_logged(frame):
    rows = list(csv.DictReader(io.StringIO(render(frame, "csv"))))
    assert [row["id"] for row in rows] == frame["id"].to_list()
    assert float(rows[0]["validation"]) == 0.3456
    assert rows[0]["final_runs"] == "aaaaaaaa1111-final-0;aaaaaaaa1111-final-1"
    found = json.loads(render(frame, "json"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [row["rank"] for row in found] == frame["rank"].to_list()
    assert found[0]["test"] == pytest.approx(0.25)


def test_a_table_for_each_protocol_numbered_through():
    frame = leaderboard(table(run("aaaaaaaa1111", val=0.9), run("bbbbbbbb1111", val=0.5) | {"tags.dmkd.protocol": "p2"}))
    parts = render(frame).split("\n\n")
    assert ["protocol p1" in parts[0], "protocol p2" in parts[1]] == [True, True]
    assert parts[1].splitlines()[-1].split()[:2] == ["2", "1"]  # second of the board, first of its table


def test_empty_and_unknown(frame):
    assert render(frame.clear()) == "No configuration has finished yet."
    with pytest.raises(TrackingError, match="table, md, csv, json"):
        render(frame, "xlsx")


def test_json_rows_have_what_programs_ask_for(frame):
    first, second, *_ = json.loads(render(frame, "json"))
    assert (first["rank"], first["method"], first["seeds"]) == (1, "yu", 2)
    assert (first["select"], first["select_by"]) == (0.3456, "val/recall_at_1")
    assert (first["report"], first["report_by"]) == (pytest.approx(0.25), "test/recall_at_1")
    assert first["interval"] == [pytest.approx(0.25 - 0.635, abs=1e-3), pytest.approx(0.25 + 0.635, abs=1e-3)]
    assert first["run_ids"] == ["aaaaaaaa1111-final-0", "aaaaaaaa1111-final-1"]
    assert first["reproduce"] == f"dmkd reproduce {first['id']}"
    assert second["interval"] is None
    assert second["run_ids"] == ["bbbbbbbb1111-search-0"]


def test_parquet_holds_the_whole_frame(frame):
    assert pl.read_parquet(io.BytesIO(parquet(frame))).equals(frame)


def test_a_long_configuration_is_given_room_by_columns_that_matter_less(frame):
    wide = frame.with_columns(
        label=pl.lit("yu/absolute lr=0.000164 from teacher"),
        gpu_hours=pl.Series([1.0, 2.0, 3.0, 4.0]),
        test_looks=pl.Series([1, 2, 3, 4]),
        dim=pl.Series([64.0, 128.0, 256.0, 512.0]),
        parameters=pl.Series([1e6, 2e6, 3e6, 4e6]),
        gflops=pl.Series([0.5, 1.5, 2.5, 3.5]),
        resolution=pl.Series([32.0, 48.0, 64.0, 96.0]),
        class_low=pl.lit(0.25),
        class_high=pl.lit(0.75),
    )
    text = render(wide)
    assert max(map(len, text.splitlines())) <= 120
    assert "yu/absolute lr=0.000164 from teach" in text
    assert "no room for Mparam, dim" in text
    assert "Mparam" in render(wide, "md")

"""A measured row beside its printed one, on the board and over every score."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tracking.made_runs import run, table
from tracking.comparison import comparison, render_comparison, scale
from tracking.leaderboard import leaderboard
from tracking.published import find, load_published
from tracking.render import render

KEY = "yu2019/T1/cub200/yu_rel/triplet/512"


def tagged(seed: int, test: float, reason: str = "", **more: Any) -> dict[str, Any]:
    told = {"published": KEY, "published_rule": "theirs", "rule": "ours", "not_comparable": reason, "label": "yu_rel"}
    return run("aaaaaaaa1111", seed, test=test) | {f"tags.dmkd.{name}": value for name, value in told.items()} | more


def printed(score: str) -> float:
    cells = find(key=KEY)
    return float(cells.filter(cells["score"] == score)["value"][0])


def test_the_board_shows_the_printed_number_the_difference_and_both_rules() -> None:
    frame = leaderboard(table(tagged(0, 0.5), tagged(1, 0.6), run("bbbbbbbb1111", test=0.3)))
    rows = {row["label"]: row for row in frame.to_dicts()}
    row = rows["yu_rel"]
    assert row["published"] == pytest.approx(printed("test/recall_at_1") / 100)
    assert row["difference"] == pytest.approx(0.55 - printed("test/recall_at_1") / 100)
    assert (row["published_key"], row["published_rule"], row["rule"], row["not_comparable"]) == (KEY, "theirs", "ours", "")
    other = next(row for row in frame.to_dicts() if row["label"] != "yu_rel")
    assert [other[name] for name in ("published", "difference", "rule", "not_comparable")] == [None] * 4
    text = render(frame)
    assert f"{printed('test/recall_at_1'):.1f}" in text
    assert f"{100 * row['difference']:+.1f}" in text
    assert "published: theirs" in text
    assert "here: ours" in text
    assert "not comparable" not in text


def test_a_row_that_is_not_comparable_says_why_and_stands_in_brackets() -> None:
    frame = leaderboard(table(tagged(0, 0.5, "48 pictures of 11788; optim.epochs=1 (2000)")))
    text = render(frame)
    assert f"({100 * (0.5 - printed('test/recall_at_1') / 100):+.1f})" in text
    assert "not comparable ( ): 48 pictures of 11788; optim.epochs=1 (2000)" in text
    assert max(map(len, text.splitlines())) <= 120


def test_every_printed_score_of_the_runs_is_held_against_them() -> None:
    runs = table(
        tagged(0, 0.5, **{"metrics.test/recall_at_2": 0.6}),
        tagged(0, 0.9),  # the same seed again: the first counts
        tagged(1, 0.6, **{"metrics.test/recall_at_2": 0.8}),
        run("bbbbbbbb1111", test=0.3),
    )
    held = {row["score"]: row for row in comparison(runs)}
    cells = find(key=KEY)["score"].drop_nulls().to_list()
    assert set(held) == set(cells)
    assert held["test/recall_at_1"]["measured"] == pytest.approx(0.55)
    assert held["test/recall_at_2"]["difference"] == pytest.approx(0.7 - printed("test/recall_at_2") / 100)
    assert held["test/recall_at_4"]["measured"] is None
    text = render_comparison(list(held.values()))
    assert f"{printed('test/recall_at_1'):.1f}" in text.splitlines()[1]
    assert text.count(KEY) == len(cells)


def test_every_printed_score_is_a_share_or_has_a_unit_of_its_own() -> None:
    """Percent becomes a share: no printed number is above 1 on the scale of what is logged."""
    rows = load_published().drop_nulls("score")
    assert all(0 <= value / scale(score) <= 1 for score, value in rows.select("score", "value").iter_rows())


def test_an_uncertain_cell_is_not_comparable() -> None:
    doubtful = load_published().filter(load_published()["uncertain"] & load_published()["score"].is_not_null())
    if doubtful.height:
        key, score = doubtful.select("key", "score").row(0)
        (row,) = [row for row in comparison(table(tagged(0, 0.5) | {"tags.dmkd.published": key})) if row["score"] == score]
        assert row["uncertain"]

"""The report of a simulated search: what stands on the page, the figures, and the page in a real browser."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.browser import axe, browser, chromium, page
from tests.tracking.made_runs import run, table
from tracking.leaderboard import leaderboard
from tracking.report.figures import KINDS, draw
from tracking.report.frontier import pareto
from tracking.report.material import Material, Retrieved
from tracking.report.training import matrix_of
from tracking.report.write import write_report
from tracking.show import Board

HOSTILE = '<script>document.title="owned"</script><img src=http://nowhere.invalid/x onerror=alert(1)>'
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def in_browser(test: Callable[..., None]) -> Any:
    """Without chromium a test waits for `make slow`, where its absence is a failure: nothing is skipped."""
    return test if chromium() else pytest.mark.slow(test)


def simulated() -> Material:
    """Twelve trials of two methods, four rows with three seeds, references, a failure with a hostile reason."""
    chance = np.random.default_rng(0)
    runs: list[dict[str, Any]] = []
    for number in range(12):
        name, method = f"{number:x}" * 8 + "1111", ("yu", "s2sd/msdf")[number % 2]
        shared = {"tags.dmkd.method": method, "tags.dmkd.sweep": "sim", "params.optim.lr": f"{10 ** (-4 + number / 4):.3g}"}
        shared |= {"params.method.weight": str(1 + number), "params.student.resolution": str((32, 48, 64)[number % 3])}
        shared |= {"metrics.model/gflops": 0.1 * (1 + number % 3), "metrics.model/parameters": 3e6, "end_time": 2000 + number}
        shared |= {"metrics.cost/gpu_seconds": 360.0, "experiment": "sim/one", "experiment_id": "1", "name": f"trial {number}"}
        runs.append(run(name, val=0.3 + 0.02 * number, **shared))
        for seed in range(3 if number > 7 else 0):
            score = 0.25 + 0.02 * number + 0.01 * float(chance.normal())
            cells = {f"metrics.test_q{q}_g{g}/recall_at_1": score * q / g for q in (32, 64) for g in (32, 64)}
            runs.append(run(name, seed, test=score, **shared, **cells))
    for kind, score in (("teacher", 0.6), ("undistilled", 0.3), ("untrained", 0.1)):
        more = {"tags.dmkd.reference": kind, "metrics.model/gflops": 0.5, "experiment": "sim/one", "experiment_id": "1"}
        runs.append(run(f"{kind[:4]}eeee1111", test=score, **more))
    failed = {"status": "FAILED", "name": "trial x", "tags.dmkd.status_reason": f"loss is nan {HOSTILE}", "experiment": "sim/one"}
    runs.append(run("ffffffff1111", **failed, **{"tags.dmkd.method": HOSTILE}))
    frame = table(*runs)
    question: dict[str, Any] = {
        "select_by": "val/recall_at_1",
        "report": "test/recall_at_1",
        "group_by": "configuration",
        "where": [],
    }
    made = leaderboard(frame, **question)
    searched = [one["run_id"] for one in runs if one["tags.dmkd.stage"] == "search" and one["status"] == "FINISHED"]
    steps = [(run_id, "val/recall_at_1", step, 0.1 * step) for run_id in searched for step in range(1, 5)]
    histories = pl.DataFrame(steps, schema=["run_id", "key", "step", "value"], orient="row")
    board = Board("sqlite:////nowhere/mlflow.db", "sim/one", frame, {}, made, question)
    neighbours = ((PIXEL, "cat", True), (PIXEL, "dog <b>", False))
    gallery = [Retrieved(PIXEL, "cat & co", (("student", neighbours), ("teacher", neighbours)))]
    return Material(board, histories, {"optim.lr": 0.75, "student.resolution": 0.25}, gallery)


@pytest.fixture(scope="module")
def material() -> Material:
    return simulated()


@pytest.fixture(scope="module")
def written(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(material, tmp_path_factory.mktemp("report")).page


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_but_itself_and_runs_nothing_that_came_from_a_run(written: Path):
    text = written.read_text(encoding="utf-8")
    tags = Tags(text).found
    addresses = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href", "xlink:href")]
    assert all(value is None or value.startswith(("data:", "#")) for value in addresses)
    assert [tag for tag, _ in tags].count("script") == 1
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert "loss is nan &lt;script&gt;" in text
    assert "url(http" not in text
    ids = [attributes["id"] for _, attributes in tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_every_figure_for_which_there_are_data_is_drawn_as_svg_and_png(material: Material, written: Path):
    names = [plate.name for plate in draw(material)]
    assert names == [name for name, *_ in KINDS if name != "published"]  # no row of it was printed in a paper
    for name in names:
        drawing = ET.parse(written.parent / "figures" / f"{name}.svg").getroot()
        assert drawing.tag.endswith("svg")
        assert (written.parent / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = written.read_text(encoding="utf-8")
    assert text.count('role="img"') == len(names)
    assert "No data for: Measured against published." in text


def test_the_front_is_what_no_cheaper_row_reaches(material: Material):
    rows = [row for row in material.rows if row["test"] is not None and row["gflops"]]
    front = [row["id"] for row in pareto(rows)]
    expected = [
        row["id"]
        for row in sorted(rows, key=lambda row: row["gflops"])
        if not any(other["test"] > row["test"] and other["gflops"] <= row["gflops"] for other in rows)
    ]
    assert front == expected


def test_the_matrix_is_the_mean_over_seeds(material: Material):
    row = next(row for row in material.rows if row["final_runs"] and not row["reference"])
    found = matrix_of(material, row)
    runs = material.board.runs.filter(pl.col("run_id").is_in(row["final_runs"]))
    assert set(found) == {(32, 32), (32, 64), (64, 32), (64, 64)}
    assert found[32, 64] == pytest.approx(runs["metrics.test_q32_g64/recall_at_1"].mean())


def test_params_of_a_method_are_searched_within_it_and_others_over_all(material: Material):
    found = {(one.name, one.method): one for one in material.searched}
    assert set(found) == {
        ("optim.lr", ""),
        ("student.resolution", ""),
        ("method.weight", "yu"),
        ("method.weight", "s2sd/msdf"),
    }
    assert len(found["method.weight", "yu"].values) == 6


def test_a_board_without_any_score_still_gives_a_page(tmp_path: Path, material: Material):
    runs = table(run("aaaaaaaa1111", status="RUNNING", experiment="e", experiment_id="1", name="trial 0", end_time=None))
    board = Board("http://127.0.0.1:1", "e", runs, {}, leaderboard(runs), material.board.question)
    text = write_report(Material(board, material.histories.clear()), tmp_path).page.read_text(encoding="utf-8")
    assert "No row is ranked" in text
    assert "Every run ended as planned" in text


@in_browser
def test_in_a_browser_it_sorts_and_filters_by_keyboard_and_asks_the_network_for_nothing(written: Path):
    with browser() as opened, page(opened, written.as_uri()) as tab:
        cells = (
            "[...document.querySelectorAll('.board tbody tr')].filter((row) => !row.hidden).map((row) => row.cells[{}].innerText)"
        )
        heads = tab.evaluate(
            "[...document.querySelectorAll('.board thead th')].map((head) => head.innerText.trim().split(' ')[0])"
        )
        place = heads.index("GFLOPs")
        tab.locator(".board thead button", has_text="GFLOPs").focus()
        for order in ("ascending", "descending"):
            tab.keyboard.press("Enter")
            values = [float(text) for text in tab.evaluate(cells.format(place)) if text]
            assert values == sorted(values, reverse=order == "descending")
            assert tab.locator("th[aria-sort]").get_attribute("aria-sort") == order
        tab.locator(".board input[type=search]").focus()
        tab.keyboard.type("teacher")
        assert tab.evaluate(cells.format(heads.index("configuration"))) == ["teacher"]
        assert tab.locator("[role=status]").inner_text().startswith("1 of")
        tab.keyboard.press("Control+A")
        tab.keyboard.press("Delete")
        tab.keyboard.press("Tab")
        tab.keyboard.press("s")  # the method that begins with s
        methods = set(
            tab.evaluate("[...document.querySelectorAll('.board tbody tr')].filter(r => !r.hidden).map(r => r.dataset.method)")
        )
        assert methods == {"s2sd/msdf"}
        assert tab.title().startswith("sim/one")
        assert tab.heard == []
        assert {address.split(":", 1)[0] for address in tab.asked} <= {"file", "data"}
        assert [address for address in tab.asked if address.startswith("file")] == [written.as_uri()[:100]]


@in_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_axe_finds_nothing_and_a_phone_does_not_scroll_sideways(written: Path, width: int, dark: bool):
    with browser() as opened, page(opened, written.as_uri(), width=width, dark=dark) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        colours = tab.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
        page_light, ink_light = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
        assert (page_light < ink_light) == dark
        found = axe(tab)
        assert [(one["id"], one["impact"], one["nodes"][0]["html"][:100]) for one in found] == []
        tab.locator("#theme").click()
        turned = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert turned != colours[0]
        assert [one["id"] for one in axe(tab)] == []
        assert tab.heard == []


def test_importances_find_the_setting_that_decides():
    from sweeps.importance import importances

    chance = np.random.default_rng(1)
    trials = []
    for _ in range(60):
        settings = {"lr": float(10 ** chance.uniform(-4, -1)), "kind": str(chance.choice(["a", "b"])), "same": 1.0}
        trials.append((settings, -((math.log10(settings["lr"]) + 2) ** 2) + 0.01 * float(chance.normal())))
    found = importances(trials)
    assert set(found) == {"lr", "kind"}
    assert found["lr"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert importances(trials[:3]) == {}

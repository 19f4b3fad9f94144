"""Every script of a published table from end to end, on a miniature of its data set in the real layout: two rows of one epoch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from dmkd.space import flatten
from sweeps.papers import recipe
from sweeps.tables.table import chosen as chosen_lines
from tests.sweeps.scripts import FOLDER, run_script, tables
from tracking.leaderboard import leaderboard
from tracking.published import load_published
from tracking.reading import load_runs

pytestmark = pytest.mark.usefixtures("ray_cluster")

NETWORK = ("student.backbone=timm/test_efficientnet", "student.weights=none", "student.dim=8", "student.resolution=32")
BATCHES = ("method.batches.size=4", "method.batches.images_per_class=2", "method.batches.iterations=2", "evaluation.nmi=false")
TUPLES = ("method.batches.size=3", "method.batches.iterations=2", "method.negative_count=2", "evaluation.max_side=64")
SETTINGS: dict[str, tuple[str, ...]] = {
    "yu": (
        *NETWORK,
        *BATCHES[1:],
        "method.batches.size=8",
        "data.degraded_size=16",
        "method.layers=[blocks.1, blocks.2]",
        "method.teacher_layers=[]",
    ),
    "s2sd": (*NETWORK, *BATCHES, "method.dims=[12, 16]"),
    "obdsd": (*NETWORK, *BATCHES, "method.dims=[12, 16]", "method.neighbours=5"),
    "raml": (*NETWORK, "method.batches.size=3", "method.batches.iterations=2", "teacher.resolution=48", "optim.accumulate=1"),
    "aml": (*NETWORK, *TUPLES, "student.frozen_batchnorm=true"),
}
"""What makes a row as small as the miniature."""

FIRST = ("yu_table1", "s2sd_table1", "aml_table1", "raml_table2", "obdsd_table1")
COSTS = ("yu_table4", "aml_table4")
ROWS = {"yu_table1": "yu_rel/*,pkt*", "raml_table2": "raml/none/512/224,teacher/triplet/512/448", "aml_table1": "*contr/*,*regr*"}
"""Rows of a run, where the first two of the table say less."""


@dataclass
class Ended:
    """A script that was run, and where."""

    uri: str
    experiment: str
    status: int
    out: str
    errors: str

    def runs(self) -> pl.DataFrame:
        return load_runs(self.uri, self.experiment)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One tracker for all: making its tables takes seconds. Every test has an experiment, and teachers, of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracker')}/mlflow.db"


def run(name: str, root: Path, folder: Path, *more: str, uri: str, dataset: str = "", rows: str = "") -> Ended:
    """A script on a miniature; `rows` as in --rows."""
    table = tables()[name]
    chosen = dataset or table.datasets[0]
    arguments = ["--epochs", "1", "--seeds", "1", "--with-teacher", "--max-concurrent", "1", "--storage", str(folder / "out")]
    arguments += ["--tracking-uri", uri, "--data-root", str(root / chosen)]
    arguments += ["--dataset", chosen] if len(table.datasets) > 1 else []
    arguments += ["--rows", rows] if rows else []
    places = (f"evaluation.landmark_root={root}", f"evaluation.whitening_root={root / 'sfm120k'}")
    arguments += ["--set", "data.validation=0.34"] if table.validation or "--search" in more else []
    known = fields(name, chosen, rows, "--search" in more)
    for setting in (*SETTINGS[name.split("_", maxsplit=1)[0]], *(places if chosen == "sfm120k" else ())):
        arguments += ["--set", setting] if setting.split("=")[0] in known else []
    experiment = f"{chosen}/{table.title(chosen)}{'_search' * ('--search' in more)}"
    return Ended(uri, experiment, *run_script(FOLDER / f"{name}.py", [*arguments, *more]))


def fields(name: str, dataset: str, rows: str, search: bool) -> set[str]:
    """Every key that a row of the table has, or the row that its search starts from."""
    table = tables()[name]
    stated = dataclasses.replace(table, lines=(table.search,)) if search else table
    made = [recipe(line.key).config for line in chosen_lines(stated.rows(dataset), rows)]
    return {key for config in made if config is not None for key in flatten(config)}


def check(ended: Ended, name: str) -> pl.DataFrame:
    """What every table leaves behind; its rows of the board that have a printed number."""
    assert ended.status == 0, ended.errors
    runs = ended.runs()
    trained = runs.filter(pl.col("tags.dmkd.stage").is_in(["final", "search"]))
    assert set(trained["status"]) == {"FINISHED"}
    told = trained.filter(pl.col("tags.dmkd.published").is_not_null()) if "tags.dmkd.published" in trained.columns else None
    if told is None or not told.height:
        return pl.DataFrame()
    keys = {key for text in told["tags.dmkd.published"] for key in text.split()}
    assert keys <= set(load_published()["key"])
    assert all("student.dim=8" in reason or "pictures of" in reason for reason in told["tags.dmkd.not_comparable"])
    assert "printed row" in ended.out, name
    return told


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "yu_table1")) for name in FIRST])
def test_a_table_of_each_paper_runs_on_a_miniature(name: str, miniatures: Path, tmp_path: Path, uri: str) -> None:
    ended = run(name, miniatures, tmp_path, "--trials", "2", uri=uri, rows=ROWS.get(name, ""))
    told = check(ended, name)
    keys = {key for text in told["tags.dmkd.published"] for key in text.split()}
    scores = load_published().filter(pl.col("key").is_in(list(keys)) & pl.col("score").is_not_null())
    report = next(score for score in scores["score"] if f"metrics.{score}" in told.columns)
    board = leaderboard(ended.runs(), report.replace("test", "val", 1), report).filter(pl.col("published").is_not_null())
    assert board.height >= 1
    for row in board.to_dicts():
        cell = scores.filter((pl.col("key") == row["published_key"]) & (pl.col("score") == report)).row(0, named=True)
        assert row["published"] == pytest.approx(cell["value"] / 100)
        assert row["difference"] == pytest.approx(row["test"] - cell["value"] / 100)
        assert row["not_comparable"]
        assert row["published_rule"]
        assert row["rule"]


SLOW = [name for name in tables() if name not in (*FIRST, *COSTS)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_other_table_runs_on_a_miniature(name: str, miniatures: Path, tmp_path: Path, uri: str) -> None:
    check(run(name, miniatures, tmp_path, "--trials", "2", uri=uri), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, table in tables().items() if table.search])
def test_every_search_form_runs_on_a_miniature(name: str, miniatures: Path, tmp_path: Path, uri: str) -> None:
    ended = run(name, miniatures, tmp_path, "--search", "--trials", "2", uri=uri)
    assert ended.status == 0, ended.errors
    runs = ended.runs()
    assert runs.filter(pl.col("tags.dmkd.stage") == "search").height == 2
    final = runs.filter((pl.col("tags.dmkd.stage") == "final") & (pl.col("tags.dmkd.label") == "trial 0"))
    assert final["tags.dmkd.published"].to_list() == final["tags.dmkd.published"].drop_nulls().to_list()


@pytest.mark.parametrize("name", COSTS)
def test_a_table_of_costs_counts_its_networks(name: str, tmp_path: Path) -> None:
    status, out, errors = run_script(FOLDER / f"{name}.py", ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"])
    assert (status, errors) == (0, "")
    runs = load_runs(f"sqlite:///{tmp_path}/mlflow.db", f"networks/{name}")
    assert runs.height > 2
    assert all(key in out for key in runs["tags.dmkd.published"])
    assert all(count > 0.2 for count in runs["metrics.model/params_m"].drop_nulls().to_list())


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["cars196", "sop"])
@pytest.mark.parametrize("name", ["s2sd_table1", "raml_table2", "obdsd_table1"])
def test_the_other_data_sets_of_a_table(name: str, dataset: str, miniatures: Path, tmp_path: Path, uri: str) -> None:
    check(run(name, miniatures, tmp_path, "--trials", "2", uri=uri, dataset=dataset), name)

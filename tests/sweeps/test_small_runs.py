"""Scripts of published tables on real pictures, small: some epochs from ImageNet's weights, the student above its untrained row.

The boards of docs/protocols.md: `python -m pytest -m slow tests/sweeps/test_small_runs.py -s` prints them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from tests.pictures import make_sop
from tests.sweeps.scripts import FOLDER, run_script, tables
from tracking.leaderboard import leaderboard
from tracking.reading import load_runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

NETWORK = ("student.backbone=timm/tf_efficientnet_lite0", "student.weights=imagenet", "student.dim=64", "student.resolution=48")
STEPS = ("method.batches.iterations=10", "optim.lr=5e-4", "evaluation.nmi=false")
PAIRS = ("method.batches.size=112", "method.batches.images_per_class=2", "method.views.min_scale=0.5")


@dataclass(frozen=True)
class Small:
    """How a script is made small: which rows, what is set, and how it is measured."""

    rows: str
    settings: tuple[str, ...]
    epochs: int = 5
    dataset: str = "sop"
    report: str = "test/recall_at_1"


RUNS = {
    "yu_table2": Small(
        "yu_rel/*",
        (*NETWORK, *STEPS, *PAIRS, "loss={name: multi_similarity}", "student.frozen_batchnorm=true", "method.relative=0.1"),
    ),
    "s2sd_table1": Small("msdf/ms/*", (*NETWORK, *STEPS, *PAIRS, "method.weight=5", "method.feature_delay=8")),
    "obdsd_table1": Small("obd_sd/ms/*", (*NETWORK, *STEPS, *PAIRS, "method.weight=50")),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stanford Online Products with 1,100 products of two drawings."""
    folder = tmp_path_factory.mktemp("small")
    make_sop(folder / "sop", classes=1100, per_class=2, size=64)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_script_of_a_paper_beats_the_untrained_network_on_real_pictures(name: str, root: Path, tmp_path: Path) -> None:
    small, uri = RUNS[name], f"sqlite:///{tmp_path}/mlflow.db"
    arguments = ["--epochs", str(small.epochs), "--seeds", "1", "--with-teacher", "--rows", small.rows]
    arguments += ["--data-root", str(root / small.dataset), "--tracking-uri", uri, "--storage", str(tmp_path / "out")]
    arguments += ["--dataset", small.dataset] if len(tables()[name].datasets) > 1 else []
    for setting in small.settings:
        arguments += ["--set", setting]
    status, out, errors = run_script(FOLDER / f"{name}.py", arguments)
    assert status == 0, errors
    print(out)
    runs = load_runs(uri)
    board = leaderboard(runs.filter(pl.col("tags.dmkd.stage") == "final"), small.report.replace("test", "val", 1), small.report)
    untrained = board.filter(pl.col("reference") == "untrained")["test"].max()
    students = board.filter(pl.col("published").is_not_null())
    assert students.height >= 1
    assert all(score > untrained for score in students["test"])
    assert all(students["not_comparable"].str.len_chars() > 0)
    assert all(students["published_rule"].str.len_chars() > 0)
    assert all(students["rule"].str.len_chars() > 0)

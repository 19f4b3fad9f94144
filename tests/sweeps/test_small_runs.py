"""Scripts of published tables on real pictures, small: some epochs from ImageNet's weights, the student above its untrained row.

The boards of docs/protocols.md: `python -m pytest -m slow tests/sweeps/test_small_runs.py -s` prints them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from dmkd.config import Config
from dmkd.run import save_checkpoint
from dmkd.space import override
from dmkd.trainer import fit
from sweeps.papers import recipe
from tests.landmarks import make_landmark_test, make_sfm120k
from tests.pictures import make_cub200, make_sop
from tests.sweeps.scripts import FOLDER, run_script, tables
from tracking.leaderboard import leaderboard
from tracking.reading import load_runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

LITE0 = ("student.backbone=timm/tf_efficientnet_lite0", "student.weights=imagenet", "evaluation.nmi=false")
NETWORK = (*LITE0, "student.dim=64", "student.resolution=48")
STEPS = ("method.batches.iterations=10", "optim.lr=5e-4")
PAIRS = ("method.batches.size=112", "method.batches.images_per_class=2", "method.views.min_scale=0.5")


@dataclass(frozen=True)
class Small:
    """How a script is made small: which rows, what is set, and how it is measured."""

    rows: str
    settings: tuple[str, ...]
    epochs: int = 5
    dataset: str = "sop"
    reports: tuple[str, ...] = ("test/recall_at_1",)
    teacher: str = ""
    """Key of the row that teaches, where it is trained first with settings of its own (`TEACHER`)."""


RUNS = {
    "yu_table2": Small(
        "yu_rel/*",
        (*NETWORK, *STEPS, *PAIRS, "loss={name: multi_similarity}", "student.frozen_batchnorm=true", "method.relative=0.1"),
    ),
    "s2sd_table1": Small("msdf/ms/*", (*NETWORK, *STEPS, *PAIRS, "method.weight=5", "method.feature_delay=8")),
    "obdsd_table1": Small("obd_sd/ms/*", (*NETWORK, *STEPS, *PAIRS, "method.weight=50")),
    # Symmetric: against the backbone as it comes; asymmetric: against what the student starts from, its teacher at 48 px.
    "raml_table2": Small(
        "raml/none/512/224,teacher/triplet/512/448",
        (
            *NETWORK,
            *("method.batches.size=7", "method.batches.iterations=20"),
            *("optim.accumulate=1", "optim.lr=3e-4", "teacher.resolution=96"),
        ),
        dataset="cub200",
        reports=("test/map", "test_asymmetric/map"),
    ),
    "aml_table2": Small(
        "regression/none/512/mobilenetv2,aml_contr_plus/contrastive/512/mobilenetv2",
        (
            *NETWORK,
            *("student.projection=linear", "method.batches.size=32", "method.batches.iterations=80"),
            *("optim.optimizer=adam", "optim.lr=6e-4", "evaluation.landmarks=[roxford5k]", "evaluation.whitening=none"),
        ),
        epochs=8,
        dataset="sfm120k",
        reports=("test/roxford5k_medium/map", "test_asymmetric/roxford5k_medium/map"),
        teacher="aml/T2/roxford5k/teacher/contrastive/512/vgg16",
    ),
}
TEACHER = {
    **{"student.backbone": "timm/tf_efficientnet_lite0", "student.dim": 64, "student.resolution": 48},
    **{"method.batches.size": 16, "method.batches.iterations": 40, "optim.optimizer": "adam", "optim.lr": 3e-4},
    **{"optim.epochs": 5, "evaluation.every": 5, "evaluation.nmi": False, "evaluation.test": False},
}
"""A landmark teacher, small: a student sees one picture of a tuple where it sees all seven, so it needs fewer steps."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of two drawings, birds of four; landmarks of three drawings and pairs, and 60 unseen ones."""
    folder = tmp_path_factory.mktemp("small")
    make_sop(folder / "sop", classes=1100, per_class=2, size=64)
    make_cub200(folder / "cub200", classes=126, per_class=4, size=96)
    make_sfm120k(folder / "sfm120k", clusters=60, more=1000, shapes=[(44, 44)])
    make_landmark_test(folder / "roxford5k", "roxford5k", landmarks=60, first=64)
    return folder


def teach(key: str, root: Path, folder: Path) -> str:
    """Trains the network of a published row on the landmarks, small; its checkpoint's folder."""
    config = override(recipe(key).config or Config(), TEACHER | {"data.root": str(root)})
    *_, last = fit(config)
    save_checkpoint(last, config, folder)
    return str(folder)


def arguments(name: str, small: Small, root: Path, folder: Path, uri: str) -> list[str]:
    """What is typed after the script's name."""
    typed = ["--epochs", str(small.epochs), "--seeds", "1", "--with-teacher", "--rows", small.rows]
    typed += ["--data-root", str(root / small.dataset), "--tracking-uri", uri, "--storage", str(folder / "out")]
    typed += ["--dataset", small.dataset] if len(tables()[name].datasets) > 1 else []
    if small.teacher:
        teacher = teach(small.teacher, root / small.dataset, folder / "teacher")
        typed += ["--set", f"teacher.checkpoint={teacher}", "--set", f"evaluation.landmark_root={root}"]
    return typed + [part for setting in small.settings for part in ("--set", setting)]


@pytest.mark.parametrize("name", RUNS)
def test_a_script_of_a_paper_beats_the_untrained_network_on_real_pictures(name: str, root: Path, tmp_path: Path) -> None:
    small, uri = RUNS[name], f"sqlite:///{tmp_path}/mlflow.db"
    status, out, errors = run_script(FOLDER / f"{name}.py", arguments(name, small, root, tmp_path, uri))
    assert status == 0, errors
    print(out)
    final = load_runs(uri).filter(pl.col("tags.dmkd.stage") == "final")
    for report in small.reports:
        role = report.split("/")[0].replace("test", "val")
        board = leaderboard(final, f"{role}/{report.rsplit('/', 1)[-1]}", report)
        print(board.select("label", "reference", "test", "published"))
        untrained = board.filter(pl.col("reference") == "untrained")
        if report == "test/map":  # RAML's student starts from its teacher: symmetric search is held against the bare backbone
            untrained = untrained.filter(pl.col("label") == "untrained")
        students = board.filter(pl.col("published").is_not_null() & ~pl.col("label").str.starts_with("teacher/"))
        assert students.height >= 1
        assert untrained.height >= 1
        assert all(score > untrained["test"].max() for score in students["test"])
        assert all(students["not_comparable"].str.len_chars() > 0)
        assert all(students["published_rule"].str.len_chars() > 0)
        assert all(students["rule"].str.len_chars() > 0)

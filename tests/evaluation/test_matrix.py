"""The matrix of resolutions and galleries, and the counting of test looks, through whole runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from dmkd.cli import main
from dmkd.config import Config
from dmkd.evaluation import looks
from dmkd.evaluation.matrix import cells, measure_cells
from dmkd.evaluation.measure import Measure, Side
from dmkd.run import evaluate_checkpoint, train_into
from dmkd.space import override
from tests.pictures import make_folder

TINY = {
    "data.name": "folder",
    "data.validation": 0.4,
    "student.backbone": "mobilenet_v1_025",
    "student.weights": "none",
    "student.dim": 16,
    "student.resolution": 32,
    "optim.epochs": 0,
    "evaluation.k": [1],
}


def run(folder: Path, root: Path, **changes: Any) -> Any:
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config = override(Config(), {"method.name": changes.pop("method.name", "metric_learning")})
    (epoch,) = train_into(override(config, TINY | {"data.root": str(root)} | changes), folder)
    return epoch


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signs")
    make_folder(folder, classes=12, size=48)
    return folder


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wall")
    run(folder, root, student__resolution=48, seed=7)
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def student(root: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A student of an asymmetric method, its matrix measured by its own run."""
    folder = tmp_path_factory.mktemp("student")
    more = {"evaluation__query_resolutions": [32, 24], "evaluation__gallery_resolutions": [32, 48]}
    epoch = run(
        folder,
        root,
        method__name="raml",
        teacher__checkpoint=str(teacher),
        teacher__features="none",
        evaluation__train=True,
        evaluation__metrics=["embedding_density"],
        **more,
    )
    assert (folder / "evaluation" / "queries_val_asymmetric_q24_g48.parquet").is_file()
    assert epoch.training.model_costs["model/gallery_resolution"] == 48
    return folder / "checkpoint", epoch.metrics


def test_the_cells_are_every_pair() -> None:
    own, wall = Side(torch.nn.Linear(1, 1), 112), Side(torch.nn.Linear(1, 1), 448, "teacher")  # type: ignore[arg-type]
    roles = [cell.role("test") for cell in cells(own, {False: own, True: wall}, [112, 64, 64], [448, 112])]
    assert roles == [f"test{kind}_q{q}_g{g}" for kind in ("", "_asymmetric") for q in (112, 64) for g in (448, 112)]
    assert [cell.role("val") for cell in cells(own, {True: wall})] == ["val_asymmetric_q112_g448"]
    assert [cell.role("val") for cell in cells(own, {False: own}, [64])] == ["val_q64_g112"]
    assert {cell.gallery.role for cell in cells(own, {True: wall}, [64], [64])} == {"teacher"}


def test_each_side_is_embedded_once_and_the_known_ones_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    own, wall = Side(torch.nn.Linear(1, 1), 1), Side(torch.nn.Linear(1, 1), 2, "teacher")  # type: ignore[arg-type]
    made: Counter[Side] = Counter()

    def embed(measure: Measure, side: Side) -> torch.Tensor:
        made[side] += 1
        return torch.tensor([float(side.resolution)])

    monkeypatch.setattr(Measure, "embed", embed)
    monkeypatch.setattr(Measure, "compare", lambda measure, left, right: ({"pair": float(left + 10 * right)}, None))
    measure = Measure(None, None, None, torch.device("cpu"))  # type: ignore[arg-type]
    asked = list(cells(own, {False: own, True: wall}, [1, 3], [1, 2]))
    found, _ = measure_cells(measure, "test", asked, {own: torch.tensor([1.0])})
    assert found["test_q3_g2/pair"] == found["test_asymmetric_q3_g2/pair"] == 23
    assert own not in made
    assert set(made.values()) == {1}
    assert len(made) == 4


def test_a_run_measures_the_matrix_and_the_checkpoint_gives_it_again(
    student: tuple[Path, dict[str, float]], teacher: Path
) -> None:
    folder, metrics = student
    again = evaluate_checkpoint(folder, gallery=teacher, split="val", resolutions=[24, 32], gallery_resolutions=[32, 48])
    roles = {f"val{kind}_q{q}_g{g}" for kind in ("", "_asymmetric") for q in (24, 32) for g in (32, 48)}
    assert {key.split("/")[0] for key in again} == roles
    assert again == pytest.approx({key: metrics[key] for key in again}, rel=1e-4)  # an untrained space is all but one point
    assert metrics["val_q32_g32/map"] == metrics["val/map"]
    assert metrics["val_asymmetric_q32_g48/map"] == metrics["val_asymmetric/map"]
    assert "val_q32_g32/embedding_density" in again
    assert "val_q24_g32/embedding_density" not in again
    # The very vectors of a picture at another resolution would be found at once: it never finds itself.
    assert metrics["val_q24_g32/map"] < 1
    plain = evaluate_checkpoint(folder, split="train")
    assert plain == pytest.approx({key: metrics[key] for key in plain}, rel=1e-4)
    assert "train/embedding_density" in plain


def test_the_command_prints_tables_counts_looks_and_says_what_is_missing(
    student: tuple[Path, dict[str, float]], teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, metrics = student
    typed = ["evaluate", "--checkpoint", str(folder), "--set", "evaluation.nmi=false", "--query-resolution", "24"]
    main([*typed, "32", "--split", "val", "--gallery", str(teacher), "--gallery-resolution", "32", "48"])
    told = capsys.readouterr()
    table = told.out.split("val_asymmetric/map\n")[1].splitlines()
    assert table[0].split() == ["query", "g32", "g48"]
    assert table[2].split() == ["q32", *(f"{metrics[f'val_asymmetric_q32_g{g}/map']:.6f}" for g in (32, 48))]
    assert "val/embedding_density\n    query       g32       g48\n      q24         -         -" not in told.out
    assert told.err == ""
    assert looks.looks(folder) == 0
    for number in (1, 2):
        main([*typed, "--json"])
        told = capsys.readouterr()
        assert "test_q24_g32/map" in json.loads(told.out)
        symmetric, counted = told.err.splitlines()
        assert "only symmetric numbers" in symmetric
        assert counted.startswith(f"note: test look {number} of this checkpoint")
    assert len((folder / looks.JOURNAL).read_text().splitlines()) == looks.looks(folder) == 2


def test_a_runs_own_look_counts_and_a_folder_that_cannot_be_written_says_so(root: Path, tmp_path: Path) -> None:
    run(tmp_path, root, evaluation__test=True, evaluation__nmi=False)
    folder = tmp_path / "checkpoint"
    assert looks.looks(folder) == 1
    assert looks.count_look(folder, "signs") == 2
    (folder / looks.JOURNAL).unlink()
    (folder / looks.JOURNAL).mkdir()
    assert looks.count_look(folder, "signs") is None

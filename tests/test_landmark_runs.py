"""Landmark networks from end to end: training on a miniature SfM-120k, the test look, `dmkd evaluate`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dmkd.checkpoint import load_model
from dmkd.cli import main
from dmkd.config import Config, config_hash
from dmkd.data.sized import SizedRows
from dmkd.errors import ConfigError, DataError
from dmkd.evaluation.embed import embed
from dmkd.evaluation.multiscale import MultiScale
from dmkd.run import evaluate_checkpoint, train_into
from dmkd.space import override
from dmkd.trainer import Training, fit
from tests.landmarks import make_landmark_test, make_sfm120k

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {
    "data.name": "sfm120k",
    "data.transform": "max_side",
    "student.backbone": "timm/test_efficientnet",
    "student.weights": "none",
    "student.pooling": "gem",
    "student.projection": "conv",
    "student.dim": 16,
    "student.resolution": 64,
    "optim.optimizer": "sgd",
    "optim.lr": 1e-2,
    "optim.epochs": 1,
    "evaluation.average_precision": "trapezoidal",
    "evaluation.nmi": False,
    "method.batches.size": 4,
    "method.batches.iterations": 2,
    "method.negative_count": 2,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landmark_runs")
    make_sfm120k(folder / "sfm120k")
    for name in ("roxford5k", "oxford5k"):
        make_landmark_test(folder / name, name)
    return folder


def tiny(root: Path, **changes: Any) -> Config:
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config = override(Config(), {"method.name": changes.pop("method.name", "symmetric")})
    return override(config, TINY | {"data.root": str(root / "sfm120k")} | changes)


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on tuples by itself, as the paper's teachers were."""
    folder = tmp_path_factory.mktemp("landmark_teacher")
    (epoch,) = train_into(tiny(root, seed=7), folder)
    assert math.isfinite(epoch.metrics["train/contrastive"])
    assert math.isfinite(epoch.metrics["val/loss"])
    return folder / "checkpoint"


def test_asymmetric_training_validates_and_looks_at_the_landmark_tests(root: Path, teacher: Path, tmp_path: Path) -> None:
    config = tiny(
        root,
        method__name="asymmetric",
        method__own=True,
        teacher__checkpoint=str(teacher),
        teacher__features="none",
        evaluation__test=True,
        evaluation__landmarks=["roxford5k", "oxford5k"],
        evaluation__landmark_root=str(root),
        evaluation__max_side=72,
        evaluation__whitening="pairs",
    )
    (epoch,) = train_into(config, tmp_path / "run")
    metrics = epoch.metrics
    for role in ("test", "test_asymmetric"):
        names = [f"{role}/{name}/{metric}" for name in ("roxford5k_medium", "oxford5k") for metric in ("map", "mp_at_10")]
        assert all(0 < metrics[name] <= 1 for name in names)
    assert {"val/map", "val/loss", "val/recall_at_1", "val_asymmetric/map"} <= metrics.keys()
    assert metrics["test_looks"] == 1
    kept = {file.name for file in (tmp_path / "run" / "evaluation").iterdir()}
    assert {"queries.parquet", "queries_test_roxford5k_hard.parquet", "queries_test_asymmetric_oxford5k.parquet"} <= kept
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert logged["test/roxford5k_hard/map"] == metrics["test/roxford5k_hard/map"]
    # The checkpoint measured again gives the same numbers, by the same lines.
    data = {"data.name": "oxford5k", "data.root": str(root / "oxford5k"), "evaluation.whitening_root": str(root / "sfm120k")}
    for gallery in (None, teacher):
        role = "test_asymmetric" if gallery else "test"
        again = evaluate_checkpoint(tmp_path / "run" / "checkpoint", gallery=gallery, changes=data)
        assert again == pytest.approx({key: metrics[key] for key in again}, abs=1e-9)
        assert set(again) == {f"{role}/oxford5k/{metric}" for metric in ("map", "mp_at_1", "mp_at_5", "mp_at_10")}
    sizes = evaluate_checkpoint(tmp_path / "run" / "checkpoint", changes=data, resolutions=[48, 72])
    assert sizes["test_q72_g72/oxford5k/map"] == pytest.approx(metrics["test/oxford5k/map"], abs=1e-9)
    assert "test_q48_g72/oxford5k/map" in sizes


def test_pictures_train_and_validate_at_their_own_shapes(root: Path) -> None:
    training = Training(tiny(root), torch.device("cpu"))
    part = training.parts.train
    seen: list[tuple[int, ...]] = []
    training.student.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    training.train_epoch()
    shapes = {tuple(SizedRows(part, 64).view(position).shape[1:]) for position in range(len(part))}
    assert set(seen) == shapes
    assert len(shapes) > 2
    context = training._context()
    wanted = embed(MultiScale(training.student, (1.0,)), [[SizedRows(part, 64).view(5)]], "cpu")
    torch.testing.assert_close(context.embed([5]), wanted)
    assert context.pairs is not None
    assert part.pairs is not None
    assert context.pairs.tolist() == part.pairs.tolist()


def test_a_resume_changes_no_bit(root: Path) -> None:
    config = tiny(root, optim__epochs=2)
    first, second = ((epoch.metrics, epoch.state) for epoch in fit(config))
    (resumed,) = fit(config, first[1])
    timed = {"cost/train_seconds", "cost/images_per_second"}
    assert {key: value for key, value in resumed.metrics.items() if key not in timed} == {
        key: value for key, value in second[0].items() if key not in timed
    }
    for name, tensor in second[1].payload["student"].items():
        assert torch.equal(tensor, resumed.state.payload["student"][name]), name


def test_squares_serve_too(root: Path) -> None:
    (epoch,) = fit(tiny(root, data__transform="centre_crop", data__crop_ratio=1.0))
    assert math.isfinite(epoch.metrics["val/loss"])


def test_what_does_not_fit_is_refused_before_training(root: Path, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    for told, changes in {"optim.chunk": {"optim__chunk": 4}, "method.views.mixup": {"method__views.mixup": 0.2}}.items():
        with pytest.raises(ConfigError, match=told):
            Training(tiny(root, **changes), cpu)
    obd_sd = override(Config(), {"method.name": "obd_sd"})
    own = {key: value for key, value in TINY.items() if not key.startswith("method.")}
    changes = {"data.root": str(root / "sfm120k"), "method.views.augmentation": "none"}
    with pytest.raises(ConfigError, match="the teacher's view of obd_sd"):
        Training(override(obd_sd, own | changes), cpu)
    with pytest.raises(DataError, match="has no test part"):
        Training(tiny(root, evaluation__test=True), cpu)
    missing = tiny(root, evaluation__test=True, evaluation__landmarks=["rparis6k"], evaluation__landmark_root=str(tmp_path))
    with pytest.raises(DataError, match=r"looked for .*gnd_rparis6k.pkl"):
        Training(missing, cpu)


def test_where_the_pictures_lie_is_no_part_of_a_configurations_name() -> None:
    config = Config()
    moved = override(config, {"evaluation.landmark_root": "/there", "evaluation.whitening_root": "/here"})
    assert config_hash(moved) == config_hash(config)
    assert config_hash(override(config, {"evaluation.landmarks": ["roxford5k"]})) != config_hash(config)


def test_the_teachers_folder_is_a_model_like_any_other(teacher: Path) -> None:
    network, info = load_model(teacher)
    assert (info["resolution"], network.network.projection) == (64, "conv")


def test_the_command_line_knows_them(root: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["datasets"])
    told = capsys.readouterr().out
    assert all(f"{name}: " in told for name in ("sfm120k", "roxford5k", "rparis6k", "oxford5k", "paris6k"))
    with pytest.raises(SystemExit):
        main(["prepare", "roxford5k", "--root", str(root / "roxford5k")])
    assert "24 pictures, 2 classes" in capsys.readouterr().out
    folder = ["--set", f"data.root={root / 'roxford5k'}", "--set", "evaluation.max_side=72", "--json"]
    main(["evaluate", "--checkpoint", str(teacher), "--dataset", "roxford5k", "--gallery", str(teacher), *folder])
    scores = json.loads(capsys.readouterr().out)
    assert {f"test_asymmetric/roxford5k_{mode}/mp_at_10" for mode in ("easy", "medium", "hard")} <= scores.keys()

"""Withheld labels, label noise and poor pictures through a whole run: the rows of Yu et al.'s Tables 3 and 6 on a small tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dmkd.config import Config
from dmkd.data.views import centre_view
from dmkd.errors import ConfigError
from dmkd.run import evaluate_checkpoint, save_checkpoint
from dmkd.trainer import Epoch, Training, fit
from tests.every_method import make_teacher, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
LOW = {"data.degradation": "low_resolution", "data.degraded_size": 8}


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(root, tmp_path_factory.mktemp("teacher"), seed=5)


def case(name: str, root: Path, teacher: Path, changes: dict[str, Any]) -> Config:
    return tiny(name, root, teacher, {"optim.epochs": 1, **changes})


def only(config: Config) -> Epoch:
    (epoch,) = list(fit(config, device=CPU))
    return epoch


@pytest.mark.parametrize(
    ("name", "use", "counts"),
    [
        ("metric_learning", "labelled", (8, 0)),  # Table 3: the student on 50 % labelled
        ("yu_relative", "labelled", (8, 0)),  # ML + KD there
        ("yu_relative", "all", (16, 8)),  # (ML + KD) / KD: with 50 % unlabelled
        ("yu_relative", "unlabelled", (8, 8)),  # only KD, on 50 % unlabelled
    ],
)
def test_every_row_of_yus_table_3(name: str, use: str, counts: tuple[int, int], root: Path, teacher: Path) -> None:
    """4 classes of 4 pictures train; 2 of each keep their label."""
    epoch = only(case(name, root, teacher, {"data.labelled": 0.5, "data.use": use}))
    clean = only(case(name, root, teacher, {}))
    metrics, parts = epoch.metrics, epoch.training.parts
    assert (len(parts.train), (parts.labels == -1).sum()) == counts
    assert metrics.get("data/labels_withheld", 0) == counts[1]
    assert (metrics["train/metric"] > 0) == (use != "unlabelled")
    assert (name == "metric_learning") or metrics["train/relative"] > 0
    assert parts.val is not None
    assert clean.training.parts.val is not None
    assert parts.val.paths == clean.training.parts.val.paths
    assert parts.fingerprint == clean.training.parts.fingerprint
    assert "data/labels_withheld" not in clean.metrics


def test_a_method_is_told_what_training_is_told(root: Path, teacher: Path) -> None:
    training = Training(case("yu_relative", root, teacher, {"data.labelled": 0.5, "data.label_noise": 0.4}), CPU)
    assert training._context().labels.tolist() == training.parts.labels.tolist()
    assert -1 in training.parts.labels
    assert sorted(set(training.parts.train.labels.tolist())) == [0, 1, 2, 3]


def test_flipped_labels_are_counted_in_the_metrics(root: Path, teacher: Path) -> None:
    epoch = only(case("metric_learning", root, teacher, {"data.label_noise": 0.4}))
    parts = epoch.training.parts
    flipped = sum(told != own for told, own in zip(parts.labels.tolist(), parts.train.labels.tolist(), strict=True))
    assert epoch.metrics["data/labels_flipped"] == flipped > 0


def test_unlabelled_pictures_alone_want_a_teacher(root: Path, teacher: Path) -> None:
    changes = {"data.labelled": 0.5, "data.use": "unlabelled"}
    with pytest.raises(ConfigError, match=r"data.use=unlabelled leaves metric_learning nothing to learn from"):
        only(case("metric_learning", root, teacher, changes))
    assert only(case("metric_learning", root, teacher, changes | {"optim.epochs": 0})).number == 0


def test_a_degraded_student_is_measured_on_degraded_pictures_and_so_again(root: Path, teacher: Path, tmp_path: Path) -> None:
    config = case("metric_learning", root, teacher, LOW)
    epoch = only(config)
    save_checkpoint(epoch, config, tmp_path / "checkpoint")
    logged = {key: value for key, value in epoch.metrics.items() if key.startswith("val/")}
    assert evaluate_checkpoint(tmp_path / "checkpoint", split="val") == logged
    clean = evaluate_checkpoint(tmp_path / "checkpoint", split="val", changes={"data.degradation": "none"})
    assert clean.keys() == logged.keys()
    assert clean != logged
    with pytest.raises(ConfigError, match=r"data.degraded_size: found 32, wanted less than the 32 pixels"):
        evaluate_checkpoint(tmp_path / "checkpoint", split="val", changes={"data.degraded_size": 32})


def by_hand(part: Any, size: int) -> torch.Tensor:
    """[N, 3, 32, 32]: the test transform, then down to `size` and up again (0: as it is), by Pillow."""
    views = []
    for position in range(len(part)):
        view = Image.fromarray(centre_view(Image.open(part.file(position)).convert("RGB"), 32, 0.875))
        if size:
            view = view.resize((size, size), Image.Resampling.BILINEAR).resize((32, 32), Image.Resampling.BILINEAR)
        views.append(torch.from_numpy(np.asarray(view).copy()).permute(2, 0, 1).float() / 255)
    return torch.stack(views)


def test_each_side_is_embedded_with_its_own_quality(root: Path, teacher: Path) -> None:
    """Table 6: the student's pictures are poor in training and in test, the teacher's are clean, the gallery's too."""
    training = Training(case("raml_cub", root, teacher, LOW), CPU)
    context, part = training._context(), training.parts.train
    assert training.teacher.network is not None
    for name, network, size in (("student", training.student, 8), ("teacher", training.teacher.network, 0)):
        with torch.no_grad():
            wanted = network.eval()(by_hand(part, size)).embedding
        torch.testing.assert_close(context.embed(range(len(part)), name), wanted, rtol=1e-4, atol=1e-5)


def test_asymmetric_measurement_is_made_again_from_the_checkpoint(root: Path, teacher: Path, tmp_path: Path) -> None:
    config = case("raml_cub", root, teacher, LOW)
    epoch = only(config)
    save_checkpoint(epoch, config, tmp_path / "checkpoint")
    again = evaluate_checkpoint(tmp_path / "checkpoint", gallery=teacher, split="val")
    assert again == {key: value for key, value in epoch.metrics.items() if key.startswith("val_asymmetric/")}

"""The one loop on small real pictures: what it yields, and what it refuses; of resumes, see test_resume."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from dmkd import trainer
from dmkd.config import Config
from dmkd.errors import CheckpointError, ConfigError, DataError, TrainingError
from dmkd.run import evaluate_checkpoint, save_checkpoint, train_into
from dmkd.space import flatten, override
from dmkd.trainer import Epoch, Training, fit
from tests.pictures import make_folder

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")

TINY = {
    "data.name": "folder",
    "data.validation": 0.4,
    "student.backbone": "resnet18",
    "student.weights": "none",
    "student.dim": 16,
    "student.resolution": 32,
    "student.frozen_batchnorm": False,
    "method.batches.size": 6,
    "optim.epochs": 3,
    "optim.lr": 1e-3,
    "evaluation.k": [1, 2],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signs")
    make_folder(folder, classes=20, size=48)
    return folder


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that saw larger pictures, trained for an epoch by the same trainer."""
    folder = tmp_path_factory.mktemp("teacher")
    config = tiny(root, {"student.resolution": 48, "optim.epochs": 1, "seed": 7})
    for _ in train_into(config, folder):
        pass
    return folder / "checkpoint"


def tiny(root: Path, changes: dict[str, Any] | None = None) -> Config:
    changes = changes or {}
    variant = {key: changes[key] for key in changes if key.endswith((".name", ".preset"))}
    config = override(Config(), variant)
    return override(config, {**TINY, "data.root": str(root), **{key: changes[key] for key in changes if key not in variant}})


RAML = {"method.name": "raml", "method.views.per_image": 2, "method.batches.size": 3, "student.checkpoint": "teacher"}


def numbers(epochs: Iterator[Epoch]) -> list[dict[str, float]]:
    return [
        {key: value for key, value in epoch.metrics.items() if not key.startswith("cost/")} | {"epoch": epoch.number}
        for epoch in epochs
    ]


def test_the_detached_control_alone_cuts_the_embedding_off_the_backbone(root: Path) -> None:
    for preset, detached in (("dsd_detached", True), ("dsd_joint", False), ("dsd", False)):
        (only,) = fit(tiny(root, {"method.preset": preset, "method.dims": [24], "optim.epochs": 0}))
        assert only.model.head.detached is detached


def test_loading_processes_change_no_bit(root: Path) -> None:
    config = tiny(root, {"optim.epochs": 1})
    assert numbers(fit(config)) == numbers(fit(override(config, {"data.workers": 2})))


def test_seeds_differ(root: Path) -> None:
    config = tiny(root, {"optim.epochs": 1})
    assert numbers(fit(config)) != numbers(fit(override(config, {"seed": 1})))


def test_training_fits_its_own_classes(root: Path) -> None:
    """Without augmentation the loss on every training picture falls to less than half, which no untrained network does.

    One epoch proves nothing: with Adam, a step between epochs of loss 0 may throw it back for one.
    """
    every = {"method.views.augmentation": "none", "method.batches.size": 12, "method.batches.replacement": False}
    config = tiny(root, every | {"method.batches.iterations": 2, "optim.epochs": 25, "evaluation.every": 25, "optim.lr": 1e-3})
    losses = [epoch.metrics["train/loss"] for epoch in fit(config)]
    assert median(losses[-10:]) < 0.5 * losses[0]


def test_validation_each_n_epochs_and_last_and_test_only_when_asked(root: Path) -> None:
    epochs = list(fit(tiny(root, {"evaluation.every": 2})))
    assert [("val/recall_at_1" in epoch.metrics) for epoch in epochs] == [False, True, True]
    assert not any(key.startswith("test") for epoch in epochs for key in epoch.metrics)


def test_zero_epochs_measure_the_network_as_it_is(root: Path) -> None:
    (only,) = list(fit(tiny(root, {"optim.epochs": 0})))
    assert only.number == 0
    assert 0 <= only.metrics["val/recall_at_1"] <= 1
    assert not any(key.startswith("train/") for key in only.metrics)


def test_the_saved_checkpoint_gives_the_logged_recall_again(root: Path, tmp_path: Path) -> None:
    config = tiny(root, {"optim.epochs": 1})
    (epoch,) = list(fit(config))
    save_checkpoint(epoch, config, tmp_path / "checkpoint")
    again = evaluate_checkpoint(tmp_path / "checkpoint", split="val")
    assert again == {key: value for key, value in epoch.metrics.items() if key.startswith("val/")}


def test_a_resume_keeps_the_best_checkpoint(root: Path, tmp_path: Path) -> None:
    """The kept checkpoint's own score decides, not that of the first epoch after the resume."""
    config = tiny(root, {"optim.epochs": 2})
    first = next(train_into(config, tmp_path))
    card = tmp_path / "checkpoint" / "model.json"
    save_checkpoint(replace(first, metrics={"val/recall_at_1": 2.0}), config, tmp_path / "checkpoint")
    before = card.read_bytes()
    assert [epoch.number for epoch in train_into(config, tmp_path, resume=True)] == [2]
    assert card.read_bytes() == before


def test_asymmetric_methods_are_measured_against_the_teachers_gallery(root: Path, teacher: Path, tmp_path: Path) -> None:
    config = tiny(root, RAML | {"optim.epochs": 1, "teacher.checkpoint": str(teacher)})
    (epoch,) = list(fit(config))
    save_checkpoint(epoch, config, tmp_path / "checkpoint")
    again = evaluate_checkpoint(tmp_path / "checkpoint", gallery=teacher, split="val")
    assert again == {key: value for key, value in epoch.metrics.items() if key.startswith("val_asymmetric/")}
    matrix = evaluate_checkpoint(tmp_path / "checkpoint", gallery=teacher, split="val", resolutions=[32, 48])
    assert matrix["val_asymmetric_q32_g48/recall_at_1"] == again["val_asymmetric/recall_at_1"]


def test_a_term_that_is_not_finite_stops_the_trial_and_is_named(root: Path) -> None:
    runaway = {"optim.lr": 1e30, "optim.optimizer": "sgd", "optim.epochs": 8, "evaluation.every": 8}
    with pytest.raises(TrainingError, match=r"loss term '\w+' became (nan|inf|-inf) in epoch \d+, batch \d+: lower optim.lr"):
        list(fit(tiny(root, runaway)))


def test_a_network_that_diverged_in_the_last_batch_is_not_measured(root: Path) -> None:
    runaway = {"optim.lr": 1e38, "optim.optimizer": "sgd", "optim.epochs": 1, "method.batches.iterations": 1}
    with pytest.raises(TrainingError, match=r"embeddings of val are not finite after epoch 1"):
        list(fit(tiny(root, runaway)))


def test_bf16_follows_float32(root: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        config = tiny(root, {"optim.precision": precision, "optim.epochs": 1, "student.frozen_batchnorm": True})
        losses[precision] = next(fit(config)).metrics["train/loss"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1)
    assert losses["bf16"] != losses["fp32"]


def test_a_state_of_a_cpu_goes_on_where_a_scaler_is_at_work_and_back(root: Path) -> None:
    """fp16 has a gradient scaler on a GPU alone; here a CPU's stands for it."""
    config = tiny(root, {"optim.precision": "fp16", "optim.epochs": 1})
    scaled, plain = Training(config, CPU), Training(config, CPU)
    scaled.precision.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaled.restore(plain.state())
    assert scaled.precision.scaler.get_scale() == 8.0
    plain.restore(scaled.state())
    other = Training(config, CPU)
    other.precision.scaler = torch.amp.GradScaler("cpu")
    other.restore(scaled.state())
    assert other.precision.scaler.get_scale() == 8.0


def test_a_state_of_another_configuration_is_refused(root: Path) -> None:
    state = next(fit(tiny(root))).state
    with pytest.raises(CheckpointError, match=r"belongs to another configuration.*optim"):
        next(fit(tiny(root, {"optim.lr": 2e-3}), state))


def test_what_cannot_be_trained_is_refused_before_the_first_step(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher.checkpoint is empty.*give a checkpoint"):
        next(fit(tiny(root, {"method.preset": "yu_relative"})))
    with pytest.raises(ConfigError, match=r"student.checkpoint=teacher, but this method has no pretrained teacher"):
        next(fit(tiny(root, {"student.checkpoint": "teacher"})))
    manifest = _manifest_without_a_test_part(tmp_path)
    with pytest.raises(DataError, match="no test part"):
        next(fit(override(tiny(root), {"data.name": "manifest", "data.root": str(manifest), "evaluation.test": True})))


def _manifest_without_a_test_part(folder: Path) -> Path:
    make_folder(folder / "images", classes=6, size=32)
    rows = [f"images/{file.parent.name}/{file.name},{file.parent.name},train" for file in sorted(folder.rglob("*.png"))]
    (folder / "manifest.csv").write_text("\n".join(["path,class,split", *rows]))
    return folder / "manifest.csv"


def test_model_costs_are_counted(root: Path) -> None:
    epoch = next(fit(tiny(root, {"optim.epochs": 0})))
    costs = epoch.training.model_costs
    # ResNet-18 has 11.18 M parameters before its classifier; the embedding adds 512 x 16 + 16.
    assert costs["model/parameters"] == 11_176_512 + 512 * 16 + 16
    assert costs["model/dim"] == 16
    assert "model/gallery_resolution" not in costs
    # 1.814 G multiply-adds at 224 px scale with the area to 32 px.
    assert costs["model/gflops"] == pytest.approx(1.814 * (32 / 224) ** 2, rel=0.02)


def test_every_key_of_the_tiny_configuration_is_known() -> None:
    assert set(TINY) <= set(flatten(Config()))


def test_the_next_epochs_loading_begins_before_an_epoch_has_ended(root, monkeypatch):
    """With processes that load; and the numbers are those of a run without any."""
    begun: list[tuple[int, int]] = []
    batches = trainer.epoch_batches

    def noted(*given: Any, epoch: int, **more: Any) -> Iterator[Any]:
        begun.append((epoch, training.iteration))
        return batches(*given, epoch=epoch, **more)

    monkeypatch.setattr(trainer, "epoch_batches", noted)
    losses = {}
    for workers in (0, 1):
        begun.clear()
        training = Training(tiny(root, {"data.workers": workers, "method.batches.iterations": 4}), CPU)
        losses[workers] = [training.train_epoch()["train/loss"] for _ in range(3)]
        # Of 4 batches the process makes the last when the third is taken, after two steps.
        assert begun == ([(0, 0), (1, 2), (2, 6)] if workers else [(0, 0), (1, 4), (2, 8)])
    assert losses[0] == losses[1]


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """The epochs whose batches were begun, in order."""
    epochs: list[int] = []
    batches = trainer.epoch_batches

    def noted(*given: Any, epoch: int, **more: Any) -> Iterator[Any]:
        epochs.append(epoch)
        return batches(*given, epoch=epoch, **more)

    monkeypatch.setattr(trainer, "epoch_batches", noted)
    return epochs


def test_loading_that_was_begun_for_another_epoch_is_not_taken(root, asked):
    """As where one network makes epochs of different lengths."""
    config = tiny(root, {"data.workers": 1, "method.batches.iterations": 2})
    training = Training(config, CPU)
    training.train_epoch()
    assert asked == [0, 1]
    training.config = override(config, {"method.batches.iterations": 3})
    training.train_epoch()
    assert (training.iteration, asked) == (5, [0, 1, 1, 2])
    training.epoch = 0
    training.train_epoch()
    assert asked == [0, 1, 1, 2, 0, 1]
    training.close()


def test_what_is_mined_is_not_loaded_ahead(root, asked):
    """Tuples are those of the network as it is when their epoch begins."""
    changes = {"data.workers": 1, "method.name": "symmetric", "method.batches.size": 3, "method.batches.iterations": 2}
    training = Training(tiny(root, changes), CPU)
    training.train_epoch()
    assert asked == [0]
    training.train_epoch()
    assert asked == [0, 1]


def test_an_epoch_is_not_lost_where_the_next_one_gets_no_process(root, monkeypatch):
    training = Training(tiny(root, {"data.workers": 1, "method.batches.iterations": 2}), CPU)
    begun, batches = [], trainer.epoch_batches

    def refused(*given: Any, epoch: int, **more: Any) -> Iterator[Any]:
        begun.append(epoch)
        if begun == [0, 1]:
            raise BlockingIOError("Resource temporarily unavailable")
        return batches(*given, epoch=epoch, **more)

    monkeypatch.setattr(trainer, "epoch_batches", refused)
    for _ in range(2):
        training.train_epoch()
    assert (training.iteration, begun) == (4, [0, 1, 1, 2])
    training.close()


def test_loading_that_was_begun_for_nothing_ends(root):
    epochs = fit(tiny(root, {"data.workers": 1, "method.batches.iterations": 4}), device="cpu")
    next(epochs)
    assert len(multiprocessing.active_children()) == 1
    epochs.close()  # as where a scheduler stops a trial
    gc.collect()
    assert not multiprocessing.active_children()

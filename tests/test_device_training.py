"""Training on views made on the device, against the same training on the host's: close numbers, and a resume to the bit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dmkd.checkpoint import load_state, save_state
from dmkd.config import Config, config_hash
from dmkd.errors import CheckpointError
from dmkd.space import override
from dmkd.trainer import Training, fit
from tests.every_method import make_teacher, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
METHODS: dict[str, dict[str, Any]] = {"metric_learning": {}, "raml": {}, "raml_uncoupled": {"method.views.mixup": 0.2}, "yu": {}}
"""Views of one size; coupled ones of two, with jitter and mixup; uncoupled ones, with both; coupled ones alone."""


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(root, tmp_path_factory.mktemp("teacher"), resolution=48)


def config(name: str, root: Path, teacher: Path, **changes: Any) -> Config:
    return tiny(name, root, teacher, {"data.device_views": True, **changes})


def weights(training: Training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.student.parameters()])


@pytest.mark.parametrize("name", METHODS)
def test_training_is_that_on_the_hosts_views_but_for_rounding(name: str, root: Path, teacher: Path) -> None:
    """Other views give other numbers: the run with another seed, from the same weights, is what "close" is held against."""
    device = config(name, root, teacher, **METHODS[name])
    host = override(device, {"data.device_views": False})
    started = Training(device, CPU).student.state_dict()
    runs, losses = {}, {}
    for arm, chosen in {"device": device, "host": host, "other seed": override(host, {"seed": 1})}.items():
        runs[arm] = run = Training(chosen, CPU)
        run.student.load_state_dict({key: value.clone() for key, value in started.items()})
        losses[arm] = run.train_epoch()["train/loss"]
    assert [run.pictures is not None for run in runs.values()] == [True, False, False]
    apart = {arm: float((weights(run) - weights(runs["host"])).norm()) for arm, run in runs.items()}
    assert losses["device"] == pytest.approx(losses["host"], rel=1e-3)
    assert 0 < apart["device"] < 0.1 * apart["other seed"]


@pytest.mark.parametrize("name", ["raml", "obd_sd"])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(name: str, root: Path, teacher: Path, tmp_path: Path) -> None:
    chosen = config(name, root, teacher)
    straight = fit(chosen)
    save_state(next(straight).state, tmp_path)
    undisturbed = next(straight)
    torch.manual_seed(999)
    (resumed,) = fit(chosen, load_state(tmp_path))
    for key, value in undisturbed.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    told = [
        {key: value for key, value in epoch.metrics.items() if not key.startswith("cost/")} for epoch in (undisturbed, resumed)
    ]
    assert told[0] == told[1]


def test_a_state_goes_on_only_where_views_are_made_alike(root: Path, teacher: Path) -> None:
    chosen = config("metric_learning", root, teacher)
    other = override(chosen, {"data.device_views": False})
    with pytest.raises(CheckpointError, match="another configuration"):
        next(fit(other, next(fit(chosen)).state))
    assert config_hash(chosen) != config_hash(other)


def test_a_set_that_does_not_fit_is_trained_on_as_ever(root: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_PICTURE_CACHE_MB", "0")
    chosen = config("metric_learning", root, teacher)
    with pytest.warns(UserWarning, match="data.device_views: the .* training pictures take") as told:
        device = list(fit(chosen))[-1]
    assert len(told) == 1, "once, not in each epoch"
    host = list(fit(override(chosen, {"data.device_views": False})))[-1]
    for key, value in host.model.state_dict().items():
        assert torch.equal(value, device.model.state_dict()[key]), key


def test_without_augmentation_the_host_goes_on(root: Path, teacher: Path) -> None:
    chosen = config("raml_ts_reg", root, teacher, **{"optim.epochs": 1})
    with pytest.warns(UserWarning, match=r"data\.device_views: .*augmentation=none shows the test transform"):
        (epoch,) = fit(chosen)
    assert epoch.training.pictures is None


def test_a_broken_picture_is_counted(root: Path, tmp_path: Path, teacher: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    file = min(path for path in copy.rglob("*.png") if path.parent.name == "class_000")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.warns(UserWarning, match=f"left out of this run: .*{file.name}"):
        epochs = list(fit(config("metric_learning", copy, teacher)))
    assert [epoch.metrics["data/skipped"] for epoch in epochs] == [1, 1]

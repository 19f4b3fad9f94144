"""What only a GPU can show: `make gpu`. What comes out is finite, close to the host's, and goes on elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dmkd.checkpoint import State, load_state, save_state
from dmkd.data import Data
from dmkd.data.datasets import load_dataset
from dmkd.data.resident import resident
from dmkd.distill import METHODS
from dmkd.evaluation import Evaluation, evaluate
from dmkd.losses import LOSSES, Library
from dmkd.models.folding import folded
from dmkd.trainer import fit
from tests.every_method import tiny
from tests.waits import ON_GPU

pytestmark = list(ON_GPU)

CARD = torch.device("cuda")
DEVICES = ("cuda:0", "cpu", "cuda")
"""Where the epochs of a run are trained, one after the other; the card by its number first."""


def go_on(config: Any, folder: Path) -> State:
    """An epoch on each of `DEVICES`, each from what the one before has saved."""
    state: State | None = None
    for device in DEVICES:
        epoch = next(fit(config, state, device))
        assert all(math.isfinite(value) for value in epoch.metrics.values()), epoch.metrics
        save_state(epoch.state, folder)
        state = load_state(folder)
    assert state is not None
    return state


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_from_a_card_to_a_cpu_and_back(name: str, root: Path, teacher: Path, tmp_path: Path) -> None:
    drawn = METHODS[name]().views.augmentation != "none"
    changes = {"optim.epochs": 4, "loss.name": "margin", "data.labelled": 0.75, "data.device_views": drawn, "data.workers": 2}
    assert go_on(tiny(name, root, teacher, changes), tmp_path).epoch == len(DEVICES)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_chunks_and_clipping_go_on_too(precision: str, optimizer: str, root: Path, tmp_path: Path) -> None:
    low = {"optim.precision": precision, "optim.optimizer": optimizer, "optim.epochs": 4, "optim.schedule": "one_cycle"}
    step = {"optim.chunk": 3, "optim.accumulate": 2, "optim.clip": 1.0, "student.pooling": "gem", "data.workers": 2}
    state = go_on(tiny("obd_sd", root, None, low | step), tmp_path)
    assert bool(state.payload["scaler"]) == (precision == "fp16")


def test_an_epoch_gives_nearly_the_numbers_of_the_host(root: Path) -> None:
    """The multi-similarity loss draws nothing; a convolution on a GPU rounds its input to 10 bits."""
    config = tiny("metric_learning", root)
    here, there = (next(fit(config, device=device)).metrics["train/loss"] for device in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=0.02)


@pytest.mark.parametrize("positives", [3, 40], ids=["counted", "sorted"])
def test_an_evaluation_gives_the_numbers_of_the_host(positives: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2000 // (positives + 1)), positives + 1)
    x = rng.standard_normal((len(labels), 64)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[1::7] = x[0]  # ties
    ids = {"query_ids": np.arange(len(x)), "gallery_ids": np.arange(len(x))}
    here, there = (
        evaluate(x, x, labels, labels, evaluation=Evaluation(nmi=False), device=device, **ids)[0]
        for device in (torch.device("cpu"), CARD)
    )
    assert there == pytest.approx(here, rel=1e-3)


@pytest.mark.parametrize("name", ["ArcFaceLoss", "CircleLoss", "ProxyAnchorLoss", "SoftTripleLoss", "SupConLoss", *LOSSES])
def test_losses_take_what_mixed_precision_gives_them(name: str) -> None:
    chosen = LOSSES[name]() if name in LOSSES else Library(name)
    x, labels = torch.randn(12, 8, device=CARD, requires_grad=True), torch.arange(12, device=CARD) % 4
    loss = chosen.build(8, 4).to(CARD)
    with torch.autocast("cuda", torch.bfloat16):
        value = loss(nn.functional.normalize(x), labels)
    value.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_batch_norms_are_folded_there(root: Path, teacher: Path) -> None:
    network = next(fit(tiny("metric_learning", root), device=CARD)).model.eval()
    assert folded(network) is not network


def test_pictures_lie_there(root: Path) -> None:
    held = resident(load_dataset(Data(root=str(root))), CARD)
    assert held is not None
    assert held.pixels.is_cuda

"""A run that stops after an epoch and goes on equals one that did not stop, bit for bit, for every method and every preset."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dmkd.checkpoint import load_state, save_state
from dmkd.distill import METHODS
from dmkd.trainer import Epoch, fit
from tests.every_method import CASES, make_teacher, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(root, tmp_path_factory.mktemp("teacher"), resolution=48)


def assert_equal(found: Any, wanted: Any, path: str = "state") -> None:
    """Nested containers of tensors and numbers with the same bits."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), path
        for key in wanted:
            assert_equal(found[key], wanted[key], f"{path}.{key}")
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), path
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_equal(one, other, f"{path}[{place}]")
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), path
    else:
        assert found == wanted, path


def outcome(epoch: Epoch) -> dict[str, Any]:
    """Metrics, weights, objective, moments, schedule, generators: all but the clock."""
    metrics = {key: value for key, value in epoch.metrics.items() if not key.startswith("cost/")}
    assert all(math.isfinite(value) for value in metrics.values())
    state = epoch.state
    payload = {key: value for key, value in state.payload.items() if key != "seconds"}
    return {"metrics": metrics, "epoch": state.epoch, "iteration": state.iteration} | payload


def check(config: Any, folder: Path) -> None:
    straight = fit(config)
    save_state(next(straight).state, folder)
    undisturbed = outcome(next(straight))
    torch.manual_seed(999)
    assert_equal(outcome(next(fit(config, load_state(folder)))), undisturbed)


@pytest.mark.parametrize("name", CASES)
def test_a_resume_changes_no_bit(name: str, root: Path, teacher: Path, tmp_path: Path) -> None:
    changes = {"loss.name": "margin", "student.frozen_batchnorm": False}
    check(tiny(name, root, teacher, changes), tmp_path)


EVERYTHING: dict[str, Any] = {
    "loss.name": "margin",
    "optim.optimizer": "adamw",
    "optim.schedule": "one_cycle",
    "optim.accumulate": 2,
    "optim.chunk": 3,
    "optim.precision": "bf16",
    "teacher.precision": "fp32",
    "optim.clip": 1.0,
    "student.pooling": "gem",
    "data.label_noise": 0.2,
    "data.labelled": 0.75,
}


@pytest.mark.parametrize("name", METHODS)
def test_a_resume_changes_no_bit_with_everything_switched_on(name: str, root: Path, teacher: Path, tmp_path: Path) -> None:
    """Accumulation, one-cycle, gradient caching, mixed precision, clipping, wrong and withheld labels."""
    check(tiny(name, root, teacher, EVERYTHING), tmp_path)


MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "a student that starts from its teacher": ("raml", {"student.checkpoint": "teacher"}),
    "a peer library's proxies": ("metric_learning", {"loss.name": "library"}),
    "semi-hard triplets and a decaying rate": ("psd", {"loss.name": "triplet", "optim.schedule": "exponential"}),
    "the previous epoch's network in bf16, diffused": ("obd_sd", {"teacher.precision": "bf16"}),
    "a teacher's maps in bf16": ("yu_absolute_hint", {"teacher.precision": "bf16"}),
    "a teacher's attention in bf16": ("yu_relative_attention", {"teacher.precision": "bf16"}),
    "a coupled teacher in bf16": ("raml", {"teacher.precision": "bf16"}),
    "ranks of a teacher that is to be exact": ("darkrank", {"teacher.precision": "bf16"}),
}


@pytest.mark.parametrize("case", MORE)
def test_a_resume_changes_no_bit_of(case: str, root: Path, teacher: Path, tmp_path: Path) -> None:
    name, changes = MORE[case]
    check(tiny(name, root, teacher, changes), tmp_path)

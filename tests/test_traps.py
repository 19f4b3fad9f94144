"""The traps of the five papers, a test each: by a run of the trainer here, or by the named test of the part that it lies in."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmkd.checkpoint import load_state, save_state
from dmkd.distill.diffusion import Diffusion
from dmkd.errors import ConfigError
from dmkd.space import override
from dmkd.trainer import Epoch, Training, fit
from tests.every_method import make_tree, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

HOME = Path(__file__).parent

ELSEWHERE = {
    "the margin loss divides by triplets with any hinge active": (
        "losses/test_modules.py",
        "test_margin_counts_a_triplet_once_though_both_its_hinges_are_active",
    ),
    "multi-similarity averages over kept anchors alone": (
        "losses/test_goldens.py",
        "test_multi_similarity",
    ),
    "NaN at D = 2, in the sampler": (
        "mining/test_samplers.py",
        "test_opposite_negatives_keep_the_probabilities_finite",
    ),
    "NaN at D = 2 and at D = 0, in every loss": (
        "losses/test_modules.py",
        "test_collapsed_and_opposite_embeddings_have_finite_gradients",
    ),
    "dead anchors, in every loss": (
        "losses/test_modules.py",
        "test_a_batch_with_little_to_learn_from_is_finite_and_has_a_graph",
    ),
    "negative degree": (
        "distill/test_diffusion.py",
        "test_a_negative_degree_is_refused_unless_clipped",
    ),
    "betas inside S2SD learn at the global rate": (
        "test_optim.py",
        "test_groups_of_the_papers_methods",
    ),
    "one augmentation only, in the terms": (
        "distill/test_relations.py",
        "test_one_view_has_no_relative_terms",
    ),
    "a class with one image, in batches without replacement": (
        "data/test_samplers.py",
        "test_without_replacement_a_class_of_one_picture_is_refused_by_name",
    ),
    "a class with one image, as an anchor of tuples": (
        "distill/test_asymmetric.py",
        "test_classes_of_one_image_cannot_give_positives",
    ),
    "OBD-SD's weight is 0 in the first epoch": (
        "distill/test_obd_sd.py",
        "test_obd_sd_needs_no_teacher_in_the_first_epoch_and_one_afterwards",
    ),
    "one-cycle erases the tenfold rate of the GeM exponent": (
        "test_optim.py",
        "test_one_cycle_equals_ramls_released_schedule",
    ),
    "AML decays before the first epoch": (
        "test_optim.py",
        "test_exponential_decay_as_in_the_text_and_as_released",
    ),
}
"""Trap -> file and name of the test that closes it."""


@pytest.mark.parametrize("trap", ELSEWHERE)
def test_a_trap_has_its_test_elsewhere(trap: str) -> None:
    file, name = ELSEWHERE[trap]
    tree = ast.parse((HOME / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def losses(epochs: Iterator[Epoch]) -> list[dict[str, float]]:
    found = [{key: value for key, value in epoch.metrics.items() if key.startswith("train/")} for epoch in epochs]
    assert all(math.isfinite(value) for row in found for value in row.values())
    return found


@pytest.mark.parametrize(
    "loss", [{"loss.name": "multi_similarity"}, {"loss.name": "margin"}, {"loss.name": "triplet", "loss.sampler": "batch_hard"}]
)
def test_dead_anchors(loss: dict[str, str], root: Path) -> None:
    """Batches of one class alone: no anchor has a negative, the loss is 0, and the run goes on."""
    sampler = {key: value for key, value in loss.items() if key != "loss.name"}
    one_class = {"method.batches.size": 4, "method.batches.images_per_class": 4, "optim.epochs": 1}
    config = override(tiny("metric_learning", root, changes={"loss.name": loss["loss.name"]}), sampler | one_class)
    assert [row["train/metric"] for row in losses(fit(config))] == [0.0]


@pytest.mark.parametrize("clip", [False, True])
def test_negative_degree(clip: bool, root: Path) -> None:
    """Diffusion as printed wants every row of similarities to sum to 0 or more; refused in one line, or clipped."""
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]]))
    similarity = (rows @ rows.T).requires_grad_()
    diffusion = Diffusion(True, omega=0.5, form="paper", clip_negative=clip)
    if not clip:
        with pytest.raises(ConfigError, match=r"sum to -.*wanted every sum >= 0; set clip_negative=True"):
            diffusion.kl(similarity, similarity)
        return
    diffusion.kl(similarity, similarity).backward()
    assert torch.isfinite(similarity.grad).all()  # type: ignore[arg-type]


def mixed_signs() -> Tensor:
    """Similarities with positive row sums whose S = V^-1/2 W V^-1/2 has the eigenvalue 9: W = 1, 1, -0.9 beside the diagonal."""
    return torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, -0.9], [1.0, -0.9, 1.0]], dtype=torch.float64)


def test_singular_omega() -> None:
    """omega = 1 has no inverse and is refused; and where negatives give S an eigenvalue above 1, so has 1 / eigenvalue."""
    with pytest.raises(ConfigError, match=r"omega: found 1.0, wanted > 0 and < 1"):
        override(Diffusion(), {"enabled": True, "omega": 1.0})
    for omega in (0.999999, 0.01):
        assert torch.isfinite(Diffusion(True, omega=omega).target(mixed_signs().float())).all()
    beside = Diffusion(True, omega=1 / 9 + 1e-7, form="paper").target(mixed_signs())
    torch.testing.assert_close(beside.sum(1), torch.ones(3, dtype=torch.float64))
    exact = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"omega=1.*singular"):
        Diffusion(True, omega=1.0, form="paper").target(exact)


@pytest.mark.parametrize("options", [{}, {"optim.accumulate": 2, "optim.chunk": 3}], ids=["plain", "accumulated in chunks"])
def test_the_delay_counter_survives_a_resume(options: dict[str, Any], root: Path, tmp_path: Path) -> None:
    """S2SD's feature term starts at the delay's optimizer step of the whole run, not of the process, nor at that batch."""
    per_step = int(options.get("optim.accumulate", 1))
    changes = {"method.feature_delay": 4, "method.batches.iterations": 3 * per_step, "optim.epochs": 3}
    config = tiny("msdf", root, changes=changes | options)
    straight = fit(config)
    first = next(straight)
    save_state(first.state, tmp_path)
    undisturbed = losses(straight)
    resumed = losses(fit(config, load_state(tmp_path)))
    assert first.metrics["train/features"] == 0.0
    assert resumed == undisturbed
    assert all(row["train/features"] > 0 for row in resumed)
    assert first.state.iteration == 3
    # Step 4 of 0 .. 8 is the first that has the term: two of the second epoch's three steps do, all of the third's.
    late = list(fit(tiny("msdf", root, changes=changes | options | {"method.feature_delay": 6})))
    assert [epoch.metrics["train/features"] > 0 for epoch in late] == [False, False, True]


def test_the_ramp_counts_epochs_whatever_a_step_is(root: Path) -> None:
    """OBD-SD: e / E with e from 0, also where two batches make a step and where they go in chunks."""
    told = []
    config = tiny("psd", root, changes={"optim.accumulate": 2, "optim.chunk": 3, "optim.epochs": 4})
    training = Training(config, torch.device("cpu"))
    training.objective.register_forward_pre_hook(lambda _, inputs: told.append((inputs[0].progress, inputs[0].iteration)))
    for _ in range(4):
        training.train_epoch()
    # Three batches an epoch: two steps, of two batches and of one.
    assert [progress for progress, _ in told] == [epoch / 4 for epoch in range(4) for _ in range(3)]
    assert [iteration for _, iteration in told] == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]


@pytest.mark.parametrize("name", ["psd", "yu_relative"])
def test_the_teacher_is_in_evaluation_mode_without_gradients(name: str, root: Path, teacher: Path) -> None:
    """The student of the epoch before, and a pretrained one; their batch-norm is moved by no batch of the student's."""
    changes = {"student.frozen_batchnorm": False, "optim.epochs": 3}
    training = Training(tiny(name, root, teacher, changes), torch.device("cpu"))
    seen = []
    training.objective.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].teacher))
    training.train_epoch()
    network = training.teacher.network
    assert network is not None
    before = {key: value.clone() for key, value in network.state_dict().items()}
    own = {key: value.clone() for key, value in training.student.state_dict().items()}
    training.train_epoch()
    wanted = own if name == "psd" else before
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert seen
    assert not any(features.embedding.requires_grad or features.feature_map.requires_grad for features in seen)


def test_one_augmentation_only(root: Path, teacher: Path) -> None:
    """RAML with one view: the relative terms, which would divide by 0, are 0, and the absolute one trains."""
    rows = losses(fit(tiny("raml", root, teacher, {"method.views.per_image": 1})))
    assert all(row["train/rel_ts"] == row["train/rel_ss"] == 0.0 for row in rows)
    assert all(row["train/abs"] > 0 for row in rows)


@pytest.mark.parametrize("name", ["metric_learning", "msdf", "obd_sd", "aml_contrastive", "raml"])
def test_a_class_with_one_image(name: str, teacher: Path, tmp_path: Path) -> None:
    """It is trained on as far as it goes, and no query of it counts."""
    root = make_tree(tmp_path / "tree")
    for folder in sorted(path for path in root.iterdir() if path.is_dir())[::3]:
        for picture in sorted(folder.glob("*.png"))[1:]:
            picture.unlink()
    rows = losses(fit(tiny(name, root, teacher, {"loss.name": "margin"})))
    assert len(rows) == 2

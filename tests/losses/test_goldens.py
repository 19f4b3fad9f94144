"""Every golden of the base losses: value and gradient as the released code, or the papers' formulas, gave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmkd.losses import (
    batch_hard_triplet_loss,
    contrastive_loss,
    margin_loss,
    multi_similarity_loss,
    triplet_loss,
    tuple_contrastive_loss,
    tuple_multi_similarity_loss,
    tuple_triplet_loss,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
MANIFEST = json.loads((GOLDENS / "manifest.json").read_text())
TOLERANCE = MANIFEST["tolerance"]


def names(*prefixes: str) -> list[str]:
    return sorted(path.stem for path in GOLDENS.glob("*.npz") if path.stem.startswith(prefixes))


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def constants(name: str) -> dict[str, Any]:
    return MANIFEST["entries"][name]["hyperparameters"]


def compare(name: str, loss: Tensor, wanted: Tensor, gradients: list[tuple[Tensor, Tensor]], tolerance: float = 0.0) -> None:
    tolerance = tolerance or TOLERANCE["official float64"]
    numpy_made = MANIFEST["entries"][name]["kind"] == "independent-numpy"
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss.detach(), wanted, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(loss, [leaf for leaf, _ in gradients])
    slack = TOLERANCE["independent-numpy grads"] if numpy_made else tolerance
    for gradient, (_, golden) in zip(found, gradients, strict=True):
        torch.testing.assert_close(gradient, golden, rtol=slack, atol=1e-8 if numpy_made else tolerance)


def student_of(golden: dict[str, Tensor]) -> Tensor:
    return golden["student"].requires_grad_()


@pytest.mark.parametrize("name", names("triplet_"))
def test_triplet(name: str) -> None:
    golden = load(name)
    x = student_of(golden)
    loss = triplet_loss(x, golden["triplets"], margin=constants(name)["margin"])
    compare(name, loss, golden["loss"], [(x, golden["grad_student"])])


@pytest.mark.parametrize("name", names("contrastive_"))
def test_contrastive(name: str) -> None:
    golden = load(name)
    x, margins = student_of(golden), constants(name)
    loss = contrastive_loss(x, golden["triplets"], positive_margin=margins["pos_margin"], negative_margin=margins["neg_margin"])
    compare(name, loss, golden["loss"], [(x, golden["grad_student"])])


@pytest.mark.parametrize("name", names("margin_", "rmargin_"))
def test_margin(name: str) -> None:
    golden, numbers = load(name), constants(name)
    x, learned = student_of(golden), "beta" in golden
    beta = golden["beta"].requires_grad_() if learned else numbers["beta"]
    loss = margin_loss(x, golden["labels"], golden["triplets"], beta, margin=numbers["margin"])
    gradients = [(x, golden["grad_student"])] + ([(beta, golden["grad_beta"])] if learned else [])
    compare(name, loss, golden["loss"], gradients, TOLERANCE["margin (float32 beta cast)"])


@pytest.mark.parametrize("name", names("multisimilarity_"))
def test_multi_similarity(name: str) -> None:
    golden, numbers = load(name), constants(name)
    x = student_of(golden)
    loss = multi_similarity_loss(
        x,
        golden["labels"],
        alpha=numbers["alpha_pos"],
        beta=numbers["beta_neg"],
        base=numbers["threshold"],
        epsilon=numbers["mining_margin"],
    )
    compare(name, loss, golden["loss"], [(x, golden["grad_student"])])


@pytest.mark.parametrize("name", names("yu_batchhard_"))
def test_batch_hard(name: str) -> None:
    golden = load(name)
    x = student_of(golden)
    loss = batch_hard_triplet_loss(x, golden["labels"], margin=constants(name)["margin"])
    compare(name, loss, golden["loss"], [(x, golden["grad_student"])])


def tuples_of(golden: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Columns [D, Q * (1 + M)] as leaf, and (anchor [Q, D], others [Q, M, D], positive [Q, M]) made of it."""
    columns, label = golden["columns"].requires_grad_(), golden["label"]
    tuples = int((label == -1).sum())
    rows = columns.T.reshape(tuples, -1, columns.shape[0])
    return columns, rows[:, 0], rows[:, 1:], label.reshape(tuples, -1)[:, 1:] == 1


@pytest.mark.parametrize("name", names("aml_contr"))
def test_tuple_contrastive(name: str) -> None:
    golden, numbers = load(name), constants(name)
    columns, anchor, others, positive = tuples_of(golden)
    form, margin = ("paper", numbers["m"]) if "paper" in name else ("released", numbers["margin"])
    loss = tuple_contrastive_loss(anchor, others, positive, margin=margin, form=form)
    compare(name, loss, golden["loss"], [(columns, golden["grad_columns"])])


@pytest.mark.parametrize("name", names("aml_triplet"))
def test_tuple_triplet(name: str) -> None:
    golden = load(name)
    columns, anchor, others, positive = tuples_of(golden)
    loss = tuple_triplet_loss(anchor, others, positive, margin=constants(name)["margin"])
    compare(name, loss, golden["loss"], [(columns, golden["grad_columns"])])


@pytest.mark.parametrize("name", names("aml_ms"))
def test_tuple_multi_similarity(name: str) -> None:
    golden, numbers = load(name), constants(name)
    columns, anchor, others, positive = tuples_of(golden)
    # The text's similarity is the cosine, ours the dot product: they differ by the gradient of the normalisation.
    if "paper" in name:
        anchor, others = (torch.nn.functional.normalize(rows, dim=-1) for rows in (anchor, others))
    keys = ("alpha", "beta", "m") if "paper" in name else ("scale_pos", "scale_neg", "thresh")
    alpha, beta, base = (numbers[key] for key in keys)
    loss = tuple_multi_similarity_loss(anchor, others, positive, alpha=alpha, beta=beta, base=base)
    compare(name, loss, golden["loss"], [(columns, golden["grad_columns"])])


@pytest.mark.parametrize("name", names("raml_triplet"))
def test_raml_triplet(name: str) -> None:
    golden = load(name)
    anchor, positives, negatives = (golden[key].requires_grad_() for key in ("anchor", "positives", "negatives"))
    others = torch.cat((positives, negatives), dim=1)
    positive = (torch.arange(others.shape[1]) < positives.shape[1]).expand(len(anchor), -1)
    mean = tuple_triplet_loss(anchor[:, 0], others, positive, margin=constants(name)["margin"], reduction="mean")
    gradients = [
        (leaf, golden[f"grad_{key}"]) for leaf, key in ((anchor, "anchor"), (positives, "positives"), (negatives, "negatives"))
    ]
    compare(name, mean * len(anchor), golden["loss"], gradients)


def test_every_golden_of_this_room_is_here() -> None:
    entries = set(MANIFEST["entries"])
    mine = (
        "triplet_",
        "contrastive_",
        "margin_",
        "rmargin_",
        "multisimilarity_",
        "yu_batchhard",
        "aml_contr",
        "aml_triplet",
        "aml_ms",
    )
    wanted = {name for name in entries if name.startswith((*mine, "raml_triplet"))}
    assert wanted <= set(names("")), "goldens of the manifest without a file"
    assert len(wanted) >= 16

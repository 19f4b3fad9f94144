"""The losses as a trainer meets them: from their configuration, with withheld labels, in half precision, at the edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dmkd import space
from dmkd.losses import (
    Contrastive,
    Library,
    Loss,
    Margin,
    MultiSimilarity,
    Triplet,
    batch_hard_triplet_loss,
    contrastive_loss,
    margin_loss,
    multi_similarity_loss,
    triplet_loss,
    tuple_contrastive_loss,
    tuple_multi_similarity_loss,
    tuple_triplet_loss,
)
from dmkd.mining import MINERS

EVERY = [
    MultiSimilarity(),
    MultiSimilarity(epsilon=None),
    *(cls(sampler=sampler) for cls in (Margin, Triplet, Contrastive) for sampler in MINERS),
    Margin(sampler="rho", switch=1.0),
    Library("ContrastiveLoss"),
    Library("TripletMarginLoss", miner="BatchHardMiner"),
]


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def label(loss: Loss) -> str:
    return "-".join(str(value) for value in space.to_dict(loss).values())[:60]


def seeded(module: nn.Module, *batch: Tensor) -> Tensor:
    torch.manual_seed(7)
    result: Tensor = module(*batch)
    return result


@pytest.mark.parametrize("loss", EVERY, ids=label)
def test_value_and_gradient_are_finite_and_float64(loss: Loss) -> None:
    x = unit(12, 5).requires_grad_()
    value = seeded(loss.build(5, 3), x, torch.arange(12) % 3)
    value.backward()
    assert value.dtype == torch.float64
    assert value > 0
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", EVERY, ids=label)
def test_rows_with_label_minus_one_take_no_part(loss: Loss) -> None:
    """Whatever they hold: their gradient is zero, and nothing changes when they move."""
    labels = torch.tensor([0, -1, 0, 1, 1, -1, 2, 2])
    x = unit(8, 4, seed=3).requires_grad_()
    moved = torch.where((labels < 0)[:, None], unit(8, 4, seed=1), x.detach())
    module = loss.build(4, 3)
    value = seeded(module, x, labels)
    value.backward()
    assert value > 0
    assert x.grad is not None
    assert not x.grad[labels < 0].any()
    torch.testing.assert_close(seeded(module, moved, labels), value.detach())


@pytest.mark.parametrize("loss", EVERY, ids=label)
def test_a_reference_set_gives_the_positives_and_negatives(loss: Loss) -> None:
    """Anchors from x, all else from the reference set; its rows with label -1 take no part."""
    x, ref = unit(6, 4).requires_grad_(), unit(9, 4, seed=2).requires_grad_()
    labels, ref_labels = torch.tensor([0, 1, 2, 0, 1, -1]), torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 1])
    value = seeded(loss.build(4, 3), x, labels, ref, ref_labels)
    value.backward()
    assert x.grad is not None
    assert ref.grad is not None
    assert value > 0
    assert ref.grad[:6].any()
    assert not ref.grad[6].any()
    assert not x.grad[5].any()


@pytest.mark.parametrize("loss", EVERY, ids=label)
@pytest.mark.parametrize("labels", [[-1] * 4, [0] * 4, [0, 1, 2, 3], []], ids=["withheld", "one class", "all alone", "empty"])
def test_a_batch_with_little_to_learn_from_is_finite_and_has_a_graph(loss: Loss, labels: list[int]) -> None:
    x = unit(len(labels), 3).requires_grad_()
    value = seeded(loss.build(3, 4), x, torch.tensor(labels, dtype=torch.int64))
    value.backward()
    assert torch.isfinite(value)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    if -1 in labels or not labels:
        assert value == 0


@pytest.mark.parametrize("loss", EVERY, ids=label)
def test_collapsed_and_opposite_embeddings_have_finite_gradients(loss: Loss) -> None:
    """D = 0 between all rows, and D = 2 between classes."""
    labels = torch.arange(8) % 2
    same = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(8, 1)
    for rows in (same, same * (1 - 2 * labels[:, None])):
        x = rows.clone().requires_grad_()
        value = seeded(loss.build(3, 2), x, labels)
        value.backward()
        assert torch.isfinite(value)
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("loss", EVERY, ids=label)
def test_a_nan_shows_in_the_loss(loss: Loss) -> None:
    """The trainer stops on it: a loss that hid it behind a mask would train on."""
    value = seeded(loss.build(3, 2), torch.full((6, 3), torch.nan), torch.arange(6) % 2)
    assert torch.isnan(value)


@pytest.mark.parametrize("loss", EVERY[:-2], ids=label)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    half, labels = unit(12, 5).to(dtype).requires_grad_(), torch.arange(12) % 3
    module = loss.build(5, 3)
    value = seeded(module, half, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert half.grad is not None
    assert torch.isfinite(half.grad).all()
    torch.testing.assert_close(value, seeded(module, half.detach().float(), labels))


def test_multi_similarity_does_not_overflow_nor_blur_under_autocast() -> None:
    x, labels = unit(16, 32).float(), torch.arange(16) % 4
    wanted = multi_similarity_loss(x, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(multi_similarity_loss(x, labels), wanted)
    long = multi_similarity_loss(100 * x.half(), labels, epsilon=None)  # similarities of 10^4: e^(40 s) is far beyond float32
    assert torch.isfinite(long)


def test_multi_similarity_of_separated_classes_is_zero_with_a_zero_gradient() -> None:
    """Every anchor is skipped, where the released code raises."""
    x = torch.eye(3, dtype=torch.float64).repeat_interleave(2, dim=0).requires_grad_()
    value = multi_similarity_loss(x, torch.arange(6) // 2)
    value.backward()
    assert value == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_margin_counts_a_triplet_once_though_both_its_hinges_are_active() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    value = margin_loss(x, torch.tensor([0, 0, 1]), torch.tensor([[0, 1, 2]]), 1.0, margin=0.2)
    assert value.item() == pytest.approx((2 - 1 + 0.2) + (1 - 0 + 0.2), abs=1e-3)


def test_r_margin_pushes_class_mates_apart() -> None:
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1]], dtype=torch.float64).requires_grad_()
    margin_loss(x, torch.tensor([0, 0]), torch.tensor([[0, 0, 1]]), 0.6).backward()
    assert x.grad is not None
    downhill = -x.grad
    assert (downhill[1] - downhill[0]) @ (x[1] - x[0]).detach() > 0


def test_betas_have_their_own_rate_and_no_decay() -> None:
    module = Margin(beta=0.6).build(4, 5)
    (group,) = module.parameter_groups(1e-5)  # type: ignore[operator]
    assert (group["lr"], group["weight_decay"]) == (5e-4, 0.0)
    (beta,) = group["params"]
    assert beta.shape == (5,)
    torch.testing.assert_close(beta.detach(), torch.full((5,), 0.6))
    seeded(module, unit(10, 4), torch.arange(10) % 5).backward()
    assert beta.grad is not None
    assert beta.grad.any()


def test_constant_betas_are_no_parameters_and_still_saved() -> None:
    module = Margin(beta_constant=True).build(4, 5)
    assert not list(module.parameters())
    assert module.parameter_groups(1e-5) == []  # type: ignore[operator]
    assert "beta" in module.state_dict()


def test_triplet_with_batch_hard_is_yu_s_loss() -> None:
    x, labels = unit(8, 4), torch.arange(8) // 2
    found = Triplet(sampler="batch_hard", margin=0.0).build(4, 4)(x, labels)
    torch.testing.assert_close(found, batch_hard_triplet_loss(x, labels))
    assert not torch.isclose(found, Triplet(sampler="all", margin=0.0).build(4, 4)(x, labels))


def test_modules_hand_their_constants_on() -> None:
    x, labels = unit(8, 4), torch.arange(8) // 2
    triplets = MINERS["all"](x, labels)
    for loss, wanted in (
        (MultiSimilarity(1.5, 20, 0.4, 0.2), multi_similarity_loss(x, labels, alpha=1.5, beta=20, base=0.4, epsilon=0.2)),
        (Triplet(sampler="all", margin=0.5), triplet_loss(x, triplets, margin=0.5)),
        (Margin(sampler="all", margin=0.4, beta=0.8), margin_loss(x, labels, triplets, 0.8, margin=0.4)),
        (
            Contrastive(sampler="all", positive_margin=0.2, negative_margin=0.9),
            contrastive_loss(x, triplets, positive_margin=0.2, negative_margin=0.9),
        ),
    ):
        torch.testing.assert_close(loss.build(4, 4)(x, labels), wanted, rtol=1e-6, atol=1e-6)


def test_tuple_losses_have_finite_gradients_where_anchor_and_other_coincide() -> None:
    for positive in (True, False):
        anchor = unit(2, 3).requires_grad_()
        others = anchor.detach()[:, None].repeat(1, 2, 1)
        mask = torch.tensor([[positive, positive]]).expand(2, 2)
        total = sum(
            loss(anchor, others + 1e-6, mask)
            for loss in (tuple_contrastive_loss, tuple_multi_similarity_loss, tuple_triplet_loss)
        )
        assert isinstance(total, Tensor)
        total.backward()
        assert anchor.grad is not None
        assert torch.isfinite(anchor.grad).all()

"""Losses and miners of pytorch-metric-learning by name."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn

from dmkd.errors import ConfigError
from dmkd.losses import Library

NEEDS_MORE = {
    "RankedListLoss": ("margin=0.4", "Tn=2"),
}
SKIPPED = {
    "GenericPairLoss",
    "NPairsLoss",
    "ThresholdConsistentMarginLoss",
    "VICRegLoss",
    "InstanceLoss",
    "ManifoldLoss",
    "HistogramLoss",
}
"""Abstract, or with rules of their own for what a batch holds; HistogramLoss of 2.9 indexes as current torch refuses."""

BY_NAME = sorted(
    name
    for name, cls in vars(losses).items()
    if inspect.isclass(cls) and issubclass(cls, losses.BaseMetricLossFunction) and cls is not losses.BaseMetricLossFunction
)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return nn.functional.normalize(torch.randn(12, 8, generator=generator)), torch.arange(12) % 4


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in SKIPPED])
def test_every_loss_of_the_library_is_built_by_name(name: str) -> None:
    x, labels = batch()
    module = Library(name, NEEDS_MORE.get(name, ())).build(8, 4)
    x.requires_grad_()
    value = module(x, labels)
    value.backward()
    assert torch.isfinite(value)
    assert x.grad is not None


def test_it_is_the_library_s_own_loss_and_miner() -> None:
    x, labels = batch()
    found = Library("TripletMarginLoss", ("margin=0.3", "swap=true"), "TripletMarginMiner", ("type_of_triplets=hard",)).build(
        8, 4
    )
    mined = miners.TripletMarginMiner(type_of_triplets="hard")(x, labels)
    assert len(mined[0]) > 0
    torch.testing.assert_close(found(x, labels), losses.TripletMarginLoss(margin=0.3, swap=True)(x, labels, mined))


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in SKIPPED])
def test_mixed_precision_does_not_reach_the_library(name: str) -> None:
    x, labels = batch()
    made = Library(name, NEEDS_MORE.get(name, ())).build(8, 4)

    def value(rows: Tensor) -> Tensor:
        return copy.deepcopy(made)(rows, labels)  # some remember what they saw

    rounded = x.bfloat16()
    wanted = value(x), value(rounded.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = value(x), value(rounded)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_sizes_are_filled_in_and_arguments_read() -> None:
    module = Library("ProxyAnchorLoss", ("margin=0.2", "alpha = 1e1"), lr=1e-3).build(8, 4)
    (proxies,) = module.parameters()
    assert proxies.shape == (4, 8)
    assert (module.loss.margin, module.loss.alpha) == (0.2, 10.0)
    (group,) = module.parameter_groups(1e-5)  # type: ignore[operator]
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.0)
    (global_rate,) = Library().build(8, 4).parameter_groups(1e-5)  # type: ignore[operator]
    assert global_rate["lr"] == 1e-5
    assert Library("ContrastiveLoss").build(8, 4).parameter_groups(1e-5) == []  # type: ignore[operator]


def test_withheld_labels_and_reference_sets_reach_the_library_filtered() -> None:
    x, labels = batch()
    hidden, module = labels.clone(), Library("ContrastiveLoss").build(8, 4)
    hidden[::3] = -1
    keep = hidden >= 0
    torch.testing.assert_close(module(x, hidden), losses.ContrastiveLoss()(x[keep], labels[keep]))
    wanted = losses.ContrastiveLoss()(x, labels, ref_emb=x[keep], ref_labels=labels[keep])
    torch.testing.assert_close(module(x, labels, x, hidden), wanted)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Library("ProxyAnkerLoss"), "did you mean 'ProxyAnchorLoss'"),
        (Library("TripletMarginLoss", miner="BatchHrdMiner"), "did you mean 'BatchHardMiner'"),
        (Library("TripletMarginLoss", ("margn=0.1",)), "no argument 'margn': did you mean 'margin'"),
        (Library("TripletMarginLoss", ("margin",)), "wanted name=value"),
        (Library("TripletMarginLoss", miner="AngularMiner", miner_arguments=("angel=3",)), "did you mean 'angle'"),
        (Library("RankedListLoss", ("margin=0.3",)), "also wants Tn"),
        (Library("PNPLoss", ("variant=Q",)), "refused"),
    ],
)
def test_mistakes_are_named(config: Library, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(8, 4)


def test_a_proxy_loss_refuses_a_reference_set_in_one_line() -> None:
    x, labels = batch()
    with pytest.raises(ConfigError, match="ProxyAnchorLoss") as caught:
        Library().build(8, 4)(x, labels, x, labels)
    assert "\n" not in str(caught.value)


def test_the_library_is_imported_only_where_it_is_used() -> None:
    slow = ("pytorch_metric", "sklearn", "faiss")
    script = f"import sys, dmkd.losses; print([name for name in sys.modules if name.startswith({slow})])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

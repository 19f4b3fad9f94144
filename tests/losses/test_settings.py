"""The losses' configurations: defaults of the papers, ranges and limits, and what is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import torch

from dmkd import space
from dmkd.errors import ConfigError, ShapeError
from dmkd.losses import (
    LOSSES,
    Contrastive,
    Loss,
    Margin,
    MultiSimilarity,
    Triplet,
    batch_hard_triplet_loss,
    multi_similarity_loss,
    triplet_loss,
    tuple_contrastive_loss,
    tuple_multi_similarity_loss,
    tuple_triplet_loss,
)
from dmkd.space import Limit, Range, Variants


@dataclass(frozen=True)
class Holder:
    loss: Annotated[Loss, Variants(LOSSES)] = field(default_factory=MultiSimilarity)


def test_defaults_are_the_papers() -> None:
    ms, margin, triplet, contrastive = MultiSimilarity(), Margin(), Triplet(), Contrastive()
    assert (ms.alpha, ms.beta, ms.base, ms.epsilon) == (2, 40, 0.5, 0.1)
    assert (margin.margin, margin.beta, margin.beta_lr, margin.beta_constant) == (0.2, 1.2, 5e-4, False)
    assert (margin.sampler, margin.upper_cutoff, margin.switch) == ("distance_weighted", None, 0.2)
    assert (triplet.margin, triplet.sampler) == (0.2, "distance_weighted")
    assert (contrastive.positive_margin, contrastive.negative_margin) == (0, 1)


@pytest.mark.parametrize("cls", LOSSES.values(), ids=str)
def test_defaults_lie_inside_their_ranges_and_round_trip(cls: type[Loss]) -> None:
    config = Holder(cls())
    values = space.flatten(config)
    for key, extra in space.search_space(config).items():
        inside = extra.low <= values[key] <= extra.high if isinstance(extra, Range) else values[key] in extra.options
        assert inside, key
        if extra.when:
            assert extra.when[0] in values
    assert space.build(Holder, space.to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "margn"}, "margin"),
        ({"name": "margin", "sampler": "distance_weigthed"}, "distance_weighted"),
        ({"name": "margin", "bета": 1}, "unknown key"),
        ({"name": "triplet", "margin": -0.1}, ">= 0"),
        ({"name": "margin", "upper_cutoff": 0}, "> 0"),
        ({"name": "margin", "switch": 1.5}, "<= 1"),
        ({"name": "multi_similarity", "alpha": 0}, "> 0"),
        ({"name": "multi_similarity", "epsilon": "big"}, "wanted float"),
    ],
)
def test_bad_configurations_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space.build(Holder, {"loss": values})


def test_epsilon_null_is_accepted() -> None:
    assert space.build(Holder, {"loss": {"name": "multi_similarity", "epsilon": None}}).loss == MultiSimilarity(epsilon=None)


def test_an_unknown_sampler_is_refused_at_build() -> None:
    with pytest.raises(ConfigError, match="did you mean 'semihard'"):
        Triplet(sampler="semi_hard").build(4, 4)


def test_shapes_that_do_not_fit_are_named() -> None:
    x, labels = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ShapeError, match=r"\[4, 3\] with labels \[3\]"):
        multi_similarity_loss(x, labels[:3])
    with pytest.raises(ShapeError, match="only one of them"):
        multi_similarity_loss(x, labels, x)
    with pytest.raises(ShapeError, match="dimension 3, ref_x 2"):
        batch_hard_triplet_loss(x, labels, ref_x=x[:, :2], ref_labels=labels)
    with pytest.raises(ShapeError, match=r"wanted \[M, 3\]"):
        triplet_loss(x, torch.zeros(2, 2, dtype=torch.int64))
    for loss in (tuple_contrastive_loss, tuple_triplet_loss, tuple_multi_similarity_loss):
        with pytest.raises(ShapeError, match=r"wanted \[Q, D\], \[Q, M, D\], \[Q, M\]"):
            loss(x, x, labels > 0)  # type: ignore[operator]


def test_options_by_name_are_checked() -> None:
    tensors = torch.randn(2, 3), torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ConfigError, match="form"):
        tuple_contrastive_loss(*tensors, form="papre")
    with pytest.raises(ConfigError, match="reduction"):
        tuple_triplet_loss(*tensors, reduction="average")


def test_limits_are_on_every_searched_number() -> None:
    """A range without a limit would accept nonsense by hand."""
    for cls in LOSSES.values():
        for name, (hint, extras) in space._fields(cls).items():
            if hint in (float, float | None):
                assert any(isinstance(extra, Limit) for extra in extras), (cls, name)

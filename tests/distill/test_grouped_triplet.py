"""RAML's teacher: groups of a class, each image an anchor, with negatives of its own out of a pool."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_world import features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.data.batches import Batches
from dmkd.distill import PRESETS, GroupedTriplet
from dmkd.distill.base import Shapes
from dmkd.errors import ConfigError, DataError

SHAPES = Shapes(6, 1)


def test_one_anchor_of_a_group_meets_the_golden(golden):
    """The golden's two anchors have 3 positives and some negatives each; a group of 4 has the same as one of its anchors."""
    data = golden("raml_triplet_B2")
    anchors, positives, negatives = (data[name] for name in ("anchor", "positives", "negatives"))
    count = negatives.shape[1]
    losses = []
    for anchor, positive, negative in zip(anchors, positives, negatives, strict=True):
        group = torch.cat((anchor, positive))
        # The other three anchors are given negatives so far away that their hinges are closed.
        far = (group[1:, None] + 1e3).expand(-1, count, -1).flatten(0, 1)
        rows = torch.cat((group, negative, far))
        method = GroupedTriplet(negative_count=count, reduction="sum")
        tuples = torch.arange(len(rows))[None]
        losses.append(total(method.build(SHAPES, multi_similarity)(step_of(features(rows), tuples=tuples))))
    torch.testing.assert_close(torch.stack(losses).sum(), data["loss"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_the_mean_over_pairs_of_every_anchor(reduction):
    torch.manual_seed(0)
    rows, groups, size, count = F.normalize(torch.randn(2 * 9, 6)), 2, 3, 2
    method = GroupedTriplet(
        negative_count=count, reduction=reduction, batches=dataclasses.replace(GroupedTriplet().batches, images_per_class=size)
    )
    terms = method.build(SHAPES, multi_similarity)(step_of(features(rows), tuples=torch.arange(18).view(2, 9)))
    losses = []
    for first in range(0, 9 * groups, 9):
        for anchor in range(size):
            own = [first + mate for mate in range(size) if mate != anchor]
            far = [first + size + anchor * count + negative for negative in range(count)]
            gaps = [
                (rows[first + anchor] - rows[p]).square().sum() - (rows[first + anchor] - rows[n]).square().sum()
                for p in own
                for n in far
            ]
            losses.append(sum(max(0.0, gap.item() + 0.7) for gap in gaps) / len(gaps))
    expected = sum(losses) if reduction == "sum" else sum(losses) / len(losses)
    assert terms["triplet"].item() == pytest.approx(expected, rel=1e-5)


def uneven(home):
    """Classes of 9, 5, 3, 4, 4, 4 and 1 images; two labels withheld."""
    home.labels = torch.cat(
        [torch.full((count,), label) for label, count in enumerate((9, 5, 3, 4, 4, 4, 1))] + [torch.full((2,), -1)]
    )
    return home


def test_an_epoch_is_cut_to_the_smallest_class_that_fills_a_group(world):
    home = uneven(world(GroupedTriplet(floor=0.0)))
    tuples = home.objective().on_epoch(home)
    assert tuples.shape == (5, 4 + 16) == (home.method.tuples_per_epoch(home.labels), 20)
    groups, negatives = tuples[:, :4], tuples[:, 4:].view(5, 4, 4)
    assert groups.flatten().unique().numel() == 20, "no image twice"
    assert [set(row) for row in home.labels[groups].tolist()] == [{0}, {1}, {3}, {4}, {5}], "classes 2 and 6 do not fill a group"
    assert (home.labels[negatives] != home.labels[groups][:, :1, None]).all()
    assert (home.labels[negatives] >= 0).all()
    assert all(len(set(row)) == 4 for row in negatives.flatten(0, 1).tolist())
    assert torch.equal(tuples, home.objective().on_epoch(home)), "a function of the seed and the epoch"
    home.epoch += 1
    assert not torch.equal(tuples, home.objective().on_epoch(home))


def test_larger_classes_give_several_groups(world):
    home = world(GroupedTriplet())
    home.labels = torch.tensor([0] * 9 + [1] * 11 + [2] * 12)
    labels = home.labels[home.objective().on_epoch(home)[:, :4]]
    assert labels[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert (labels == labels[:, :1]).all()
    assert home.method.tuples_per_epoch(home.labels) == 6


def test_the_pool_is_embedded_once_by_the_student(world):
    home = world(GroupedTriplet(pool=10))
    calls, embed = [], home.embed
    home.embed = lambda positions, network: calls.append((len(positions), network)) or embed(positions, network)
    drawn = home.objective().on_epoch(home)[:, 4:]
    assert calls == [(32, "student")]
    assert drawn.unique().numel() <= 10


def test_classes_that_fill_no_group_are_named(world):
    home = world(GroupedTriplet())
    home.labels = torch.arange(32) // 3
    assert home.method.tuples_per_epoch(home.labels) == 0
    with pytest.raises(DataError, match=r"no class has 4 .* the largest has 3"):
        home.objective().on_epoch(home)


@pytest.mark.parametrize("changes", [{"kind": "classes"}, {"columns": 1}, {"images_per_class": 1}])
def test_batches_that_are_no_tuples_of_groups_are_refused(changes):
    batches = dataclasses.replace(GroupedTriplet().batches, **changes)
    with pytest.raises(ConfigError, match="grouped_triplet wants"):
        GroupedTriplet(batches=batches).build(SHAPES, multi_similarity)


def test_presets_are_the_published_numbers():
    small, large = PRESETS["raml_teacher"], PRESETS["raml_teacher_sop"]
    assert [x.batches.size * x.batches.images_per_class for x in (small, large)] == [200, 4000]
    assert (small.margin, small.negative_count, small.pool, small.floor) == (0.7, 4, 20000, 1e-6)
    assert (small.views.augmentation, small.teacher) == ("crop_flip", "none")
    assert isinstance(small.batches, Batches)

"""Given pairs as tuples, and the loss of tuple methods on a validation part, against loops."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from dmkd.distill import PRESETS
from dmkd.distill.symmetric import Symmetric
from dmkd.distill.tuples import draw_pairs
from dmkd.distill.validation import validation_loss
from dmkd.distill.yu import Yu
from dmkd.errors import DataError
from dmkd.losses import tuple_contrastive_loss
from tests.distill.tiny_world import World

PAIRS = torch.tensor([[0, 1], [1, 0], [4, 6], [9, 8], [13, 12], [20, 21], [26, 25], [30, 31]])


def test_given_pairs_are_drawn_each_once_before_one_comes_again():
    labels = torch.arange(8).repeat_interleave(4)
    drawn = draw_pairs(PAIRS, labels, 20, torch.Generator().manual_seed(0))
    known = set(map(tuple, PAIRS.tolist()))
    rows = list(map(tuple, drawn.tolist()))
    assert set(rows[:8]) == set(rows[8:16]) == known
    assert rows[:8] != rows[8:16]
    labels[6] = -1  # withheld: the pair is none
    assert (4, 6) not in set(map(tuple, draw_pairs(PAIRS, labels, 20, torch.Generator().manual_seed(0)).tolist()))
    with pytest.raises(DataError, match="none of the data set's pairs"):
        draw_pairs(PAIRS[:0], labels, 4, torch.Generator())


@pytest.mark.parametrize("preset", ["aml_contrastive_plus", "aml_contrastive_self_pos", "aml_triplet", "symmetric"])
def test_tuples_of_an_epoch_are_given_pairs_where_the_data_have_them(preset):
    method = Symmetric() if preset == "symmetric" else PRESETS[preset]
    method = dataclasses.replace(method, batches=dataclasses.replace(method.batches, size=4, iterations=4), negative_count=3)
    world = World(method)
    world.pairs = PAIRS
    tuples = world.objective().on_epoch(world)
    assert tuples is not None
    assert tuples.shape == (16, 5 if method.negatives else 2)
    rows = list(map(tuple, tuples[:, :2].tolist()))
    assert set(rows[:8]) == set(rows[8:]) == set(map(tuple, PAIRS.tolist()))
    labels = world.labels[tuples]
    for own, *others in labels[:, [0, *range(2, tuples.shape[1])]].tolist():
        assert own not in others
        assert len(set(others)) == len(others)


def embeddings():
    torch.manual_seed(2)
    labels = torch.arange(8).repeat_interleave(4)
    student, teacher = (F.normalize(torch.randn(8, 6)[labels] + torch.randn(32, 6), dim=1).double() for _ in range(2))
    return student, teacher, labels


@pytest.mark.parametrize("preset", ["aml_contrastive", "aml_contrastive_plus", "aml_contrastive_pos", "symmetric"])
def test_the_loss_is_that_of_every_pair_and_its_hardest_negatives(preset):
    method = Symmetric() if preset == "symmetric" else PRESETS[preset]
    method = dataclasses.replace(method, batches=dataclasses.replace(method.batches, size=3), negative_count=2, margin=1.2)
    student, teacher, labels = embeddings()
    others = student if preset == "symmetric" else teacher
    values = []
    for anchor, positive in PAIRS.tolist():
        taken, negatives = {int(labels[anchor])}, []
        for candidate in (student[anchor] @ others.T).argsort(descending=True).tolist():
            if int(labels[candidate]) not in taken and len(negatives) < 2:
                taken.add(int(labels[candidate]))
                negatives.append(candidate)
        own = getattr(method, "own", False)
        members = [*([anchor] if own else []), positive, *(negatives if method.negatives else [])]
        good = [place < own + 1 for place in range(len(members))]
        values.append(tuple_contrastive_loss(student[None, anchor], others[None, members], torch.tensor([good]), margin=1.2))
    # Two whole batches of three; the two pairs left over make none.
    wanted = torch.stack([torch.stack(values[:3]).sum(), torch.stack(values[3:6]).sum()]).mean()
    got = validation_loss(method, student, teacher, labels, PAIRS)
    assert got == pytest.approx(float(wanted), rel=1e-9)


def test_objectives_without_labels_see_the_pictures_in_order():
    student, teacher, labels = embeddings()
    method = dataclasses.replace(
        PRESETS["aml_regression"], batches=dataclasses.replace(PRESETS["aml_regression"].batches, size=8)
    )
    got = validation_loss(method, student, teacher, labels, PAIRS)
    assert got == pytest.approx(float((1 - (student * teacher).sum(1)).sum() / 4), rel=1e-4)
    for preset in ("aml_rkd", "aml_darkrank"):
        assert validation_loss(PRESETS[preset], student, teacher, labels, PAIRS) > 0


def test_there_is_none_where_it_means_nothing():
    student, teacher, labels = embeddings()
    assert validation_loss(Yu(), student, teacher, labels, PAIRS) is None
    assert validation_loss(PRESETS["aml_contrastive"], student, None, labels, PAIRS) is None
    assert validation_loss(PRESETS["aml_contrastive"], student, teacher, labels % 4, PAIRS) is None
    assert validation_loss(dataclasses.replace(Symmetric(), objective="loss"), student, None, labels, PAIRS) is None

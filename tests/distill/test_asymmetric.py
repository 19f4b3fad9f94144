from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_world import features, multi_similarity, step_of, total

from dmkd.data.batches import Batches
from dmkd.distill import PRESETS, Asymmetric
from dmkd.distill.base import Shapes
from dmkd.errors import ConfigError, DataError


def small(method, iterations=8):
    return dataclasses.replace(method, batches=dataclasses.replace(method.batches, size=4, iterations=iterations))


@pytest.mark.parametrize(
    "name", ["aml_contr", "aml_contr_plus", "aml_contr_paper", "aml_contr_plus_paper", "aml_triplet", "aml_ms", "aml_ms_paper"]
)
def test_asymmetric_objectives_meet_the_goldens_of_their_tuples(golden, name):
    """The golden's columns are anchor, (anchor's own), positive, negatives; the teacher's are stored, so only column 0 learns."""
    data = golden(f"{name}_d8" if "_ms" in name else f"{name}_q1_d8")
    form = "paper" if name.endswith("paper") else "released"
    preset = {"triplet": "aml_triplet", "ms": "aml_multi_similarity", "contr": "aml_contrastive"}[name.split("_")[1]]
    constants = {"alpha": 2, "beta": 40, "base": 0.5} if name == "aml_ms" else {}
    method = dataclasses.replace(PRESETS[preset], own="plus" in name, form=form, **constants)
    objective = method.build(Shapes(8, 1, teacher=Shapes(8, 1)), multi_similarity)
    columns = data["columns"].T
    others = columns[1:]
    objective.stored = others if method.own else torch.cat((columns[:1], others))
    anchor = columns[:1].clone().requires_grad_()
    (loss,) = objective(step_of(features(anchor), tuples=torch.arange(len(objective.stored))[None])).values()
    torch.testing.assert_close(loss.detach(), data["loss"], rtol=1e-9, atol=1e-9)
    loss.backward()
    gradient, wanted = anchor.grad[0], data["grad_columns"][:, 0]
    if name == "aml_ms_paper":
        # The text's golden differentiates the cosine, the program the dot product: equal along the sphere.
        gradient = gradient - (gradient @ columns[0]) * columns[0]
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["aml_contrastive", "aml_contrastive_plus", "aml_triplet", "aml_multi_similarity", "aml_regression"]
)
def test_the_gradient_of_a_batch_is_the_sum_of_its_tuples(name):
    """Eq. 1 sums over anchors, and the released code goes back after every tuple of a batch before it steps."""
    objective = PRESETS[name].build(Shapes(6, 1, teacher=Shapes(6, 1)), multi_similarity)
    rows = torch.nn.functional.normalize(torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    objective.stored, tuples = rows, torch.arange(20).view(4, 5)
    anchors = rows.roll(1, 0)[tuples[:, 0]]

    def gradient(start, stop):
        leaf = anchors[start:stop].clone().requires_grad_()
        total(objective(step_of(features(leaf), tuples=tuples[start:stop]))).backward()
        return leaf.grad

    torch.testing.assert_close(gradient(0, 4), torch.cat([gradient(at, at + 1) for at in range(4)]))


@pytest.mark.parametrize("form", ["released", "paper"])
def test_asymmetric_regression_meets_its_golden(golden, form):
    data = golden("aml_regression_n4_d8" if form == "released" else "aml_regression_paper_n4_d8")
    objective = Asymmetric(objective="regression", form=form).build(Shapes(8, 1, teacher=Shapes(8, 1)), multi_similarity)
    objective.stored = data["teacher"]
    student = data.leaf("student")
    data.check(total(objective(step_of(features(student), tuples=torch.arange(4)[:, None]))), student=student)


def test_tuples_hold_a_class_mate_and_the_hardest_of_other_classes(world):
    home = world(small(PRESETS["aml_contrastive"]))
    objective = home.objective()
    tuples = objective.on_epoch(home)
    assert tuples.shape == (32, 7)
    assert tuples[:, 0].sort().values.tolist() == list(range(32)), "every image is an anchor before one is twice"
    labels = home.labels[tuples]
    assert (labels[:, 1] == labels[:, 0]).all()
    assert (tuples[:, 1] != tuples[:, 0]).all()
    similarity = home.embed(torch.arange(32)) @ home.embed(torch.arange(32), "teacher").T
    for row, classes in zip(tuples.tolist(), labels.tolist(), strict=True):
        best = {c: max(similarity[row[0], home.labels == c]).item() for c in set(range(8)) - {classes[0]}}
        assert classes[2:] == sorted(best, key=best.get, reverse=True)[:5]
        assert [similarity[row[0], n].item() for n in row[2:]] == pytest.approx([best[c] for c in classes[2:]])


def test_tuples_are_a_function_of_seed_and_epoch_and_positives_are_uniform(world):
    home = world(small(PRESETS["aml_contrastive"], iterations=400))
    objective = home.objective()
    tuples = objective.on_epoch(home)
    assert torch.equal(tuples, home.objective().on_epoch(home))
    counts = torch.zeros(32, 32).index_put_((tuples[:, 0], tuples[:, 1]), torch.ones(len(tuples)), accumulate=True)
    mates = (home.labels[:, None] == home.labels) & ~torch.eye(32, dtype=torch.bool)
    assert (counts[mates] > 0).all()
    assert (counts[~mates] == 0).all()
    assert counts.sum(1).eq(50).all()
    home.epoch = 1
    assert not torch.equal(tuples, objective.on_epoch(home))


def test_withheld_and_lonely_images_are_no_anchors_and_no_negatives(world):
    home = world(small(PRESETS["aml_contrastive"]))
    home.labels = home.labels.clone()
    home.labels[:4] = -1
    home.labels[4] = 8
    tuples = home.objective().on_epoch(home)
    assert tuples.min() >= 4
    assert not (tuples[:, :2] == 4).any()


def test_regression_uses_every_image_without_labels(world):
    home = world(small(PRESETS["aml_regression"]))
    home.labels = torch.full((32,), -1)
    tuples = home.objective().on_epoch(home)
    assert sorted(tuples[:, 0].tolist()) == list(range(32))
    assert tuples.shape == (32, 1)


def test_classes_of_one_image_cannot_give_positives(world):
    home = world(small(PRESETS["aml_contrastive"]))
    home.labels = torch.arange(32)
    with pytest.raises(DataError, match="class-mate"):
        home.objective().on_epoch(home)


@pytest.mark.parametrize(
    "method",
    [
        Asymmetric(positives=False, negatives=False),
        Asymmetric(objective="triplet", negatives=False),
        Asymmetric(objective="multi_similarity", positives=False),
        Asymmetric(batches=Batches()),
    ],
)
def test_a_tuple_that_lacks_a_part_is_refused(world, method):
    with pytest.raises(ConfigError):
        world(method).objective()


def test_published_counts_of_the_asymmetric_method():
    method = Asymmetric()
    assert method.batches.size * method.batches.iterations == 2000
    assert (method.batches.size, method.negative_count, method.pool, method.margin) == (10, 5, 22000, 0.7)
    assert PRESETS["aml_regression"].batches.size * PRESETS["aml_regression"].batches.iterations == 20000
    assert PRESETS["aml_triplet"].margin == 0.1
    assert (method.alpha, method.beta, method.base) == (1, 1, 0.6)

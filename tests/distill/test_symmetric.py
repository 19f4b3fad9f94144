"""Symmetric tuples, and what they share with asymmetric ones: any base loss, random mining, objectives without labels."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_world import features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.data.batches import Batches
from dmkd.distill import PRESETS, Asymmetric, Symmetric
from dmkd.distill.base import Plan, Shapes
from dmkd.errors import ConfigError, DataError, ShapeError
from dmkd.losses import Contrastive, MultiSimilarity

SHAPES = Shapes(8, 1, teacher=Shapes(8, 1))


def small(method, **changes):
    return dataclasses.replace(method, batches=dataclasses.replace(method.batches, size=4, **{"iterations": 8} | changes))


@pytest.mark.parametrize("name", ["aml_contr", "aml_contr_paper", "aml_triplet", "aml_ms"])
def test_every_column_learns_as_the_golden_says(golden, name):
    data = golden(f"{name}_d8" if "_ms" in name else f"{name}_q1_d8")
    objective = {"contr": "contrastive", "triplet": "triplet", "ms": "multi_similarity"}[name.split("_")[1]]
    margin = 0.1 if objective == "triplet" else 0.7
    form = "paper" if name.endswith("paper") else "released"
    method = Symmetric(objective=objective, margin=margin, alpha=2, beta=40, base=0.5, form=form)
    rows = data["columns"].T.contiguous().requires_grad_()
    tuples = torch.arange(len(rows))[None]
    loss = total(method.build(SHAPES, multi_similarity)(step_of(features(rows), tuples=tuples)))
    torch.testing.assert_close(loss.detach(), data["loss"], rtol=1e-9, atol=1e-9)
    loss.backward()
    torch.testing.assert_close(rows.grad, data["grad_columns"].T, rtol=1e-5, atol=1e-8)


def test_negatives_are_those_that_the_student_itself_finds_hard(world):
    home = world(small(PRESETS["aml_symmetric"]))
    calls, embed = [], home.embed
    home.embed = lambda positions, network="student": calls.append(network) or embed(positions, network)
    tuples = home.objective().on_epoch(home)
    assert set(calls) == {"student"}
    assert tuples.shape == (32, 7)
    assert tuples[:, 0].sort().values.tolist() == list(range(32))
    labels, rows = home.labels[tuples], embed(torch.arange(32))
    assert (labels[:, 1] == labels[:, 0]).all()
    similarity = rows @ rows.T
    for row, classes in zip(tuples.tolist(), labels.tolist(), strict=True):
        best = {c: max(similarity[row[0], home.labels == c]).item() for c in set(range(8)) - {classes[0]}}
        assert classes[2:] == sorted(best, key=best.get, reverse=True)[:5]


@pytest.mark.parametrize("cls", [Symmetric, Asymmetric])
def test_random_mining_keeps_the_rule_of_classes(world, cls):
    home = world(small(cls(mining="random")))
    tuples = home.objective().on_epoch(home)
    labels = home.labels[tuples]
    assert (labels[:, 2:] != labels[:, :1]).all()
    assert all(len(set(row)) == 5 for row in labels[:, 2:].tolist())
    hard = world(small(cls())).objective().on_epoch(home)
    assert torch.equal(tuples[:, :2], hard[:, :2])
    assert (tuples[:, 2] != hard[:, 2]).sum() > 16, "most are not the hardest"


@pytest.mark.parametrize("iterations", [0, 6])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("cls", [Symmetric, Asymmetric])
def test_an_epoch_has_all_its_tuples_whatever_a_step_accumulates(world, cls, accumulate, iterations):
    home = world(small(cls(), iterations=iterations))
    home.plan = Plan(10, -(-(iterations or 8) // accumulate))
    assert len(home.objective().on_epoch(home)) == 4 * (iterations or 8)


def test_any_base_loss_is_its_symmetric_version_over_all_rows_of_the_tuples():
    torch.manual_seed(0)
    rows, tuples = F.normalize(torch.randn(12, 8)), torch.arange(12).view(3, 4)
    labels = torch.tensor([0, 0, 1, 2, 1, 1, 2, 0, 2, 2, 0, 1])
    objective = Symmetric(objective="loss").build(SHAPES, multi_similarity)
    terms = objective(step_of(features(rows), labels=labels, tuples=tuples))
    assert terms["loss"].item() == multi_similarity(8)(rows, labels).item()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("loss", [MultiSimilarity(), Contrastive(sampler="all")])
def test_any_base_loss_is_its_asymmetric_version_against_the_stored_features(world, loss, own):
    home = world(small(Asymmetric(objective="loss", own=own)), metric=lambda dim: loss.build(dim, 8))
    objective = home.objective()
    step = home.step(objective.on_epoch(home)[:4])
    found = objective(step)["loss"]
    columns = step.tuples if own else step.tuples[:, 1:]
    reference = home.embed(columns.flatten(), "teacher")
    expected = loss.build(8, 8)(step.student.embedding, step.labels, reference, home.labels[columns.flatten()])
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.item() > 0


def test_the_five_rows_of_the_ablation_pull_and_push_what_they_say():
    """Distances by hand: columns are the teacher's own, a positive, two negatives."""
    torch.manual_seed(0)
    anchor, stored = F.normalize(torch.randn(1, 8)), F.normalize(torch.randn(4, 8))
    stored[2] = F.normalize(anchor[0] + 0.2 * stored[2], dim=0)
    distance = (anchor - stored).norm(dim=1)
    own, pull = distance[0].square() / 2, distance[1].square() / 2
    push = ((0.7 - distance[2:]).clamp(min=0).square() / 2).sum()
    rows = {
        "aml_contrastive": pull + push,
        "aml_contrastive_pos": pull,
        "aml_contrastive_self_pos": own + pull,
        "aml_contrastive_plus": own + pull + push,
        "aml_regression": own,
    }
    assert push > 0
    for name, expected in rows.items():
        method = PRESETS[name]
        objective = method.build(SHAPES, multi_similarity)
        objective.stored = stored
        columns = [0, 1, 2, 3] if method.negatives else [0, 1]
        tuples = torch.tensor([[0] if method.objective == "regression" else columns])
        assert total(objective(step_of(features(anchor), tuples=tuples))).item() == pytest.approx(expected.item(), rel=1e-4), name
    assert [PRESETS[name].label for name in rows] == [
        "asymmetric/contrastive",
        "asymmetric/contrastive/positives",
        "asymmetric/contrastive/own+positives",
        "asymmetric/contrastive+",
        "asymmetric/regression",
    ]


@pytest.mark.parametrize(
    ("golden_name", "preset", "form"),
    [
        ("aml_rkd_da_B8_d6_dT6", "aml_rkd", "released"),
        ("aml_darkrank_B8_d6_dT6", "aml_darkrank", "released"),
        ("aml_darkrank_paper_B8_d6_dT6", "aml_darkrank", "paper"),
    ],
)
def test_relations_to_stored_features_meet_their_goldens(golden, golden_name, preset, form):
    data = golden(golden_name)
    method = dataclasses.replace(PRESETS[preset], form=form)
    objective = method.build(Shapes(6, 1, teacher=Shapes(9, 1)), multi_similarity)
    objective.stored = data["teacher"]
    student = data.leaf("student")
    data.check(total(objective(step_of(features(student), tuples=torch.arange(8)[:, None]))), student=student)


def test_published_counts():
    method, relational = PRESETS["aml_symmetric"], (PRESETS["aml_rkd"], PRESETS["aml_darkrank"])
    assert method.batches.size * method.batches.iterations == 2000
    assert (method.teacher, method.gallery, method.margin, method.negative_count, method.pool) == (
        "none",
        "student",
        0.7,
        5,
        22000,
    )
    assert all((x.batches.size, x.batches.iterations, x.gallery) == (70, 200, "teacher") for x in relational)
    assert relational[1].form == "paper"


def test_single_images_without_labels_are_the_tuples_of_a_relational_epoch(world):
    home = world(small(PRESETS["aml_rkd"]))
    home.labels = torch.full((32,), -1)
    assert sorted(home.objective().on_epoch(home)[:, 0].tolist()) == list(range(32))


@pytest.mark.parametrize(
    "method",
    [
        Symmetric(positives=False, negatives=False),
        Symmetric(objective="triplet", negatives=False),
        Symmetric(objective="loss", positives=False),
        Symmetric(batches=Batches(kind="tuples", columns=1)),
        Symmetric(batches=Batches()),
    ],
)
def test_a_tuple_that_lacks_a_part_is_refused(method):
    with pytest.raises(ConfigError, match="symmetric"):
        method.build(SHAPES, multi_similarity)


def test_columns_that_were_not_drawn_are_named():
    objective = Symmetric().build(SHAPES, multi_similarity)
    with pytest.raises(ShapeError, match=r"batches\.columns=0"):
        objective(step_of(features(torch.randn(2, 8)), tuples=torch.zeros(2, 7, dtype=torch.int64)))


def test_classes_of_one_image_give_no_anchor(world):
    home = world(small(Symmetric()))
    home.labels = home.labels.clone()
    home.labels[0] = 8
    tuples = home.objective().on_epoch(home)
    assert not (tuples[:, :2] == 0).any()
    home.labels = torch.arange(32)
    with pytest.raises(DataError, match="class-mate"):
        home.objective().on_epoch(home)

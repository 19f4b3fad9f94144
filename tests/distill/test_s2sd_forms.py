"""Who teaches whom in S2SD, its controls, and its two-stage counterpart, each against a loop written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_world import features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd import space
from dmkd.distill import PRESETS, S2SD, TwoStage
from dmkd.distill.base import Plan, Shapes
from dmkd.errors import ConfigError
from dmkd.models.embedder import Head

LABELS = torch.arange(8) // 2
DIMS = (6, 4, 9)
"""Not in order: what is lower and what is higher goes by the dimension."""
PAIRS = {
    "multi": [("f", 4), ("f", 6), ("f", 9)],
    "nested": [("f", 4), ("f", 6), ("f", 9), (4, 6), (4, 9), (6, 9)],
    "chained": [("f", 4), (4, 6), (6, 9)],
}


def row_kl(student, teacher):
    """Mean over rows of KL(softmax(teacher's cosines) || softmax(student's)), by loops."""
    student, teacher = (np.asarray(x.detach()) for x in (student, teacher))
    total, count = 0.0, len(student)
    for i in range(count):
        logits = [
            [float(x[i] @ x[j]) / float(np.linalg.norm(x[i]) * np.linalg.norm(x[j])) for j in range(count)]
            for x in (student, teacher)
        ]
        q, p = (np.exp(row) / np.exp(row).sum() for row in logits)
        total += float((p * np.log(p / q)).sum())
    return total / count


class Fixture:
    """An objective in float64 with a base embedding and a feature map as leaves."""

    def __init__(self, method: S2SD, dim: int = 5) -> None:
        torch.manual_seed(0)
        self.objective = method.build(Shapes(dim, 7), multi_similarity).double()
        self.base = torch.randn(8, dim, dtype=torch.float64).requires_grad_()
        self.map = torch.randn(8, 7, 2, 2, dtype=torch.float64).requires_grad_()
        self.heads = dict(zip(method.dims, self.objective.heads, strict=True))

    def terms(self):
        return self.objective(step_of(features(self.base, self.map), labels=LABELS))

    def spaces(self):
        pooled = self.map.mean((2, 3))
        return {"f": self.base} | {dim: head(pooled) for dim, head in self.heads.items()}


@pytest.mark.parametrize("topology", PAIRS)
def test_a_topology_is_the_mean_over_its_pairs(topology):
    fixture = Fixture(S2SD(dims=DIMS, features=False, topology=topology, weight=3.0))
    spaces, pairs = fixture.spaces(), PAIRS[topology]
    terms = fixture.terms()
    expected = 3 * sum(row_kl(spaces[low], spaces[high]) for low, high in pairs) / len(pairs)
    assert terms["distillation"].item() == pytest.approx(expected, rel=1e-10)
    base_loss = [multi_similarity(1)(F.normalize(x), LABELS).item() for x in spaces.values()]
    assert terms["metric"].item() == pytest.approx(base_loss[0] / 2, rel=1e-10)
    assert terms["auxiliary"].item() == pytest.approx(sum(base_loss[1:]) / 6, rel=1e-10)


@pytest.mark.parametrize("topology", PAIRS)
def test_the_gradient_of_a_topology_takes_every_teacher_as_a_constant(topology):
    """Central differences of the loop, its teachers held where they were, in the base, a head's weights and the feature map."""
    fixture = Fixture(S2SD(dims=DIMS, features=False, topology=topology, weight=1.0))
    fixture.terms()["distillation"].backward()
    teachers = {key: value.detach().clone() for key, value in fixture.spaces().items()}
    leaves = {"base": fixture.base, "map": fixture.map} | {dim: head[0].weight for dim, head in fixture.heads.items()}

    def loop():
        spaces, pairs = fixture.spaces(), PAIRS[topology]
        return sum(row_kl(spaces[low], teachers[high]) for low, high in pairs) / len(pairs)

    generator = torch.Generator().manual_seed(1)
    for name, leaf in leaves.items():
        direction = torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator)
        ends = []
        for step in (1e-5, -1e-5):
            leaf.data += step * direction
            ends.append(loop())
            leaf.data -= step * direction
        expected = (ends[0] - ends[1]) / 2e-5
        found = 0.0 if leaf.grad is None else float((leaf.grad * direction).sum())
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9), name
    learners = {low for low, _ in PAIRS[topology]} - {"f"}
    assert {dim for dim, head in fixture.heads.items() if head[0].weight.grad is not None} == learners
    assert (fixture.map.grad is not None) == bool(learners)


def test_nested_and_chained_with_one_space_are_dsd():
    found = [Fixture(S2SD(dims=(6,), features=False, topology=topology)).terms() for topology in PAIRS]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("topology", ["nested", "chained"])
def test_the_feature_term_stays_the_bases_in_every_topology(topology):
    method = S2SD(dims=DIMS, feature_delay=0, feature_weight=2.0, topology=topology)
    fixture = Fixture(method)
    term = fixture.terms()["features"]
    assert term.item() == pytest.approx(2 * row_kl(fixture.base, fixture.map.mean((2, 3))), rel=1e-10)


@pytest.mark.parametrize(("released", "pooled"), [(True, "average and maximum"), (False, "average")])
def test_the_feature_target_of_the_a_variants_is_pooled_as_released_or_as_in_the_text(released, pooled):
    fixture = Fixture(S2SD(dims=(6,), feature_delay=0, pool_aggregation=True, aggregated_target=released))
    target = fixture.map.mean((2, 3)) + (fixture.map.amax((2, 3)) if pooled != "average" else 0)
    assert fixture.terms()["features"].item() == pytest.approx(50 * row_kl(fixture.base, target), rel=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_head_has_as_many_linear_layers_as_asked(depth):
    (head,) = S2SD(dims=(6,), depth=depth).build(Shapes(5, 1024), multi_similarity).heads
    x = torch.randn(3, 1024)
    linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(1024, 6)] + [(6, 6)] * (depth - 1)
    expected = x
    for position, layer in enumerate(linear):
        expected = (expected if position == 0 else expected.clamp(min=0)) @ layer.weight.T + layer.bias
    torch.testing.assert_close(head(x), expected)


def test_joint_training_is_s2sd_without_any_distillation():
    """The same numbers as with the distillation weighted 0, and no term for it."""
    options = {"dims": DIMS, "feature_delay": 0}
    joint, weightless = Fixture(S2SD(**options, distillation=False)), Fixture(S2SD(**options, weight=0, feature_weight=0))
    terms, wanted = joint.terms(), weightless.terms()
    assert set(terms) == {"metric", "auxiliary"}
    total(terms).backward()
    total(wanted).backward()
    for key, value in terms.items():
        assert value == wanted[key]
    torch.testing.assert_close(joint.base.grad, weightless.base.grad)
    torch.testing.assert_close(joint.map.grad, weightless.map.grad)


@pytest.mark.parametrize("distillation", [False, True])
@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("pooling", ["average", "gem"])
def test_a_detached_base_trains_on_features_that_the_auxiliary_spaces_alone_shape(pooling, detached, distillation):
    torch.manual_seed(0)
    method = S2SD(dims=(6, 9), features=False, detached=detached, distillation=distillation)
    objective, head = method.build(Shapes(5, 7), multi_similarity), Head(7, pooling, 5)
    head.detached = method.detached_embedding
    feature_map = torch.rand(8, 7, 2, 2, requires_grad=True)
    embedding, _ = head(feature_map)
    terms = objective(step_of(features(embedding, feature_map), labels=LABELS))

    def reaches(name, leaf):
        return torch.autograd.grad(terms[name], leaf, retain_graph=True, allow_unused=True)[0] is not None

    own = list(head.parameters())
    assert len(own) == (3 if pooling == "gem" else 2)
    for name in ("metric", "distillation") if distillation else ("metric",):
        assert all(reaches(name, parameter) for parameter in own)
        assert reaches(name, feature_map) == (not detached)
        assert not any(reaches(name, parameter) for parameter in objective.parameters())
    assert not any(reaches("auxiliary", parameter) for parameter in own)
    assert reaches("auxiliary", feature_map)
    assert all(reaches("auxiliary", parameter) for parameter in objective.parameters())


def test_a_detached_head_gives_the_same_numbers():
    head, feature_map = Head(7, "gem", 5), torch.rand(3, 7, 2, 2, requires_grad=True)
    attached = head(feature_map)
    head.detached = True
    for found, wanted in zip(head(feature_map), attached, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_two_stage_distillation_is_half_the_base_loss_and_the_row_kernel_of_a_frozen_teacher():
    torch.manual_seed(0)
    student = F.normalize(torch.randn(8, 5, dtype=torch.float64)).requires_grad_()
    teacher = F.normalize(torch.randn(8, 11, dtype=torch.float64)).requires_grad_()
    objective = PRESETS["s2sd_two_stage"].build(Shapes(5, 7, teacher=Shapes(11, 7)), multi_similarity)
    terms = objective(step_of(features(student), features(teacher), labels=LABELS))
    assert set(terms) == {"metric", "distillation"}
    assert terms["distillation"].item() == pytest.approx(50 * row_kl(student, teacher), rel=1e-10)
    assert terms["metric"].item() == pytest.approx(multi_similarity(5)(student, LABELS).item() / 2, rel=1e-10)
    total(terms).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_two_stage_distillation_is_dsd_with_its_auxiliary_space_in_place_of_the_teacher():
    """What is left of Eq. 4 without the auxiliary space's own loss, value and gradient."""
    fixture = Fixture(S2SD(dims=(6,), features=False))
    fixture.base.data = F.normalize(fixture.base.data)
    dsd = fixture.terms()
    (dsd["metric"] + dsd["distillation"]).backward()
    student = fixture.base.detach().clone().requires_grad_()
    teacher = F.normalize(fixture.spaces()[6]).detach()
    objective = TwoStage().build(Shapes(5, 7, teacher=Shapes(6, 7)), multi_similarity)
    # Networks give unit vectors: the loss is taken behind that step, as S2SD takes it.
    terms = objective(step_of(features(F.normalize(student)), features(teacher), labels=LABELS))
    total(terms).backward()
    torch.testing.assert_close(total(terms), dsd["metric"] + dsd["distillation"])
    torch.testing.assert_close(student.grad, fixture.base.grad)


@pytest.mark.parametrize(
    ("name", "label", "options"),
    [
        ("msd_nested", "msd+nested", {"topology": "nested"}),
        ("msd_chained", "msd+chained", {"topology": "chained"}),
        ("dsd_joint", "dsd+joint", {"dims": (2048,), "distillation": False}),
        ("dsd_detached", "dsd+joint+detached", {"dims": (2048,), "distillation": False, "detached": True}),
        ("msd_diffusion", "msd+diffusion", {"diffusion.enabled": True, "diffusion.omega": 0.3}),
        ("msd_diffusion_cars", "msd+diffusion", {"diffusion.enabled": True, "diffusion.omega": 0.99}),
    ],
)
def test_a_preset_differs_from_msd_in_what_its_name_says_alone(name, label, options):
    assert PRESETS[name] == space.override(PRESETS["msd"], options)
    assert PRESETS[name].label == f"s2sd/{label}"


@pytest.mark.parametrize("name", ["dsd", "dsda", "msd", "msda", "msdf", "msdfa"])
def test_on_sop_both_weights_are_five(name):
    assert PRESETS[f"{name}_sop"] == space.override(PRESETS[name], {"weight": 5, "feature_weight": 5})


def test_the_command_lines_released_for_sop_have_fifty_and_five():
    released = PRESETS["msdf_sop_released"]
    assert (released.weight, released.feature_weight) == (50, 5)


def test_two_stage_presets_have_the_weights_of_s2sd():
    found = [PRESETS[name] for name in ("s2sd_two_stage", "s2sd_two_stage_sop")]
    assert [(method.weight, method.metric, method.temperature) for method in found] == [(50, 0.5, 1), (5, 0.5, 1)]
    assert all(method.teacher == "pretrained" and method.paper == "s2sd" and not method.diffusion.enabled for method in found)


def test_without_distillation_no_feature_term_is_waited_for():
    joint = S2SD(distillation=False)
    assert (joint.ready_after(Plan(150, 52)), joint.inactive_terms(Plan(1, 1))) == (1, ())


@pytest.mark.parametrize(("key", "value"), [("kernel", "row"), ("topology", "neste"), ("depth", 0)])
def test_an_unknown_form_is_refused_when_it_is_set(key, value):
    with pytest.raises(ConfigError, match=key):
        space.override(S2SD(), {key: value})

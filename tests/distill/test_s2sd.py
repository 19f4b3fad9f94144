from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tiny_world import FixedTriplets, features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.distill import PRESETS, S2SD, MetricLearning
from dmkd.distill.base import Plan, Shapes
from dmkd.distill.diffusion import Diffusion
from dmkd.errors import ConfigError
from dmkd.losses import Margin

S2SD_GOLDENS = [
    "s2sd_dsd_B8",
    "s2sd_dsda_B8",
    "s2sd_msd_B8",
    "s2sd_msd_T0.5_B8",
    "s2sd_msdf_before_delay_B8",
    "s2sd_msdf_active_B8",
    "s2sd_msdf_sop_B8",
    "s2sd_msdfa_active_B8",
]


def s2sd_of(data, metric, **options):
    """The objective of a golden, with the golden's weights in its heads; the names of those weights, and the parameters."""
    constants = data.constants
    method = S2SD(weight=constants["w"], temperature=constants["T"], dims=tuple(constants["target_dims"]), **options)
    objective = method.build(Shapes(8, 12), metric).double()
    named = {}
    for position, head in enumerate(objective.heads):
        for key, layer, part in (("W1", 0, "weight"), ("b1", 0, "bias"), ("W2", 2, "weight"), ("b2", 2, "bias")):
            parameter = getattr(head[layer], part)
            parameter.data = data[f"net{position}_{key}"].clone()
            named[f"net{position}_{key}"] = parameter
    return objective, named


@pytest.mark.parametrize("name", S2SD_GOLDENS)
def test_s2sd_meets_its_goldens(golden, name):
    data = golden(name)
    constants = data.constants
    objective, heads = s2sd_of(
        data,
        multi_similarity,
        features=constants["feat_distill"],
        feature_weight=constants["feat_w"],
        feature_delay=constants["delay"],
        pool_aggregation=constants["pool_aggr"],
    )
    base, feature_map = data.leaf("base"), data.leaf("feature_map")
    terms = objective(step_of(features(base, feature_map), labels=data["labels"], iteration=constants["iter_count_at_call"]))
    expected = constants["w"] * data["kl_per_target"].mean().item()
    assert terms["distillation"].item() == pytest.approx(expected, rel=1e-9)
    if constants["iter_count_at_call"] >= constants["delay"]:
        assert terms["features"].item() == pytest.approx(constants["feat_w"] * data["kl_features"].item(), rel=1e-9)
    data.check(total(terms), base=base, feature_map=feature_map, **heads)


def test_s2sd_with_margin_losses_meets_its_golden(golden):
    data = golden("s2sd_msd_margin_B8")
    objective, _ = s2sd_of(data, lambda dim: FixedTriplets(data["triplets"], 1.2), features=False)
    base, feature_map = data.leaf("base"), data.leaf("feature_map")
    terms = objective(step_of(features(base, feature_map), labels=data["labels"]))
    data.check(total(terms), base=base, feature_map=feature_map, beta_source=objective.metric.beta)


def test_the_default_and_msdf_are_the_published_setting():
    method = PRESETS["msdf"]
    assert method == S2SD()
    assert (method.weight, method.feature_weight, method.temperature, method.feature_delay) == (50, 50, 1, 1000)
    assert method.dims == (512, 1024, 1536, 2048)
    assert method.features
    assert not method.pool_aggregation
    assert not method.diffusion.enabled
    assert (method.batches.kind, method.batches.size, method.batches.images_per_class) == ("classes", 112, 2)
    assert method.batches.replacement
    assert (method.views.per_image, method.views.augmentation, method.views.min_scale) == (1, "crop_flip", 0.08)


@pytest.mark.parametrize(
    ("name", "dims", "has_features", "pools"),
    [
        ("dsd", (2048,), False, False),
        ("dsda", (2048,), False, True),
        ("msd", (512, 1024, 1536, 2048), False, False),
        ("msda", (512, 1024, 1536, 2048), False, True),
        ("msdf", (512, 1024, 1536, 2048), True, False),
        ("msdfa", (512, 1024, 1536, 2048), True, True),
    ],
)
def test_s2sd_presets(name, dims, has_features, pools):
    method = PRESETS[name]
    assert (method.dims, method.features, method.pool_aggregation, method.label) == (dims, has_features, pools, f"s2sd/{name}")


def test_s2sd_on_sop():
    assert (PRESETS["msdf_sop"].weight, PRESETS["msdf_sop"].feature_weight) == (5, 5)


@pytest.mark.parametrize(
    ("delay", "per_epoch", "epoch"), [(1000, 52, 20), (1000, 71, 15), (104, 52, 3), (103, 52, 2), (0, 52, 1)]
)
def test_s2sd_is_ready_after_the_first_epoch_that_has_the_feature_term(delay, per_epoch, epoch):
    method = S2SD(feature_delay=delay)
    assert method.ready_after(Plan(150, per_epoch)) == epoch
    first = next(e for e in range(1, 99) if any(i >= delay for i in range((e - 1) * per_epoch, e * per_epoch)))
    assert first == epoch
    assert PRESETS["msd"].ready_after(Plan(150, per_epoch)) == 1


def test_s2sd_names_the_term_that_a_short_plan_never_reaches():
    assert S2SD().inactive_terms(Plan(10, 100)) == ("features",)
    assert S2SD().inactive_terms(Plan(10, 101)) == ()
    assert PRESETS["msd"].inactive_terms(Plan(1, 1)) == ()


def test_betas_inside_s2sd_learn_at_the_global_rate_and_alone_at_their_own():
    shapes = Shapes(8, 6, classes=5)
    inside = S2SD(dims=(4, 6)).build(shapes, lambda dim: Margin().build(dim, 5))
    (group,) = inside.parameter_groups(1e-5)
    assert "lr" not in group
    assert group["weight_decay"] == 0
    assert {id(x) for x in group["params"]} == {id(x) for x in inside.parameters()}
    assert len(list(inside.parameters())) == 2 * 4 + 3
    (alone,) = MetricLearning().build(shapes, lambda dim: Margin().build(dim, 5)).parameter_groups(1e-5)
    assert (alone["lr"], alone["weight_decay"], tuple(alone["params"][0].shape)) == (5e-4, 0, (5,))


def test_gradients_stop_where_the_spec_says():
    """The kernels reach the base embedding alone; the auxiliary base losses reach the backbone and the heads."""
    torch.manual_seed(0)
    objective = S2SD(dims=(4, 6), feature_delay=0).build(Shapes(8, 6), multi_similarity)
    base, feature_map = F.normalize(torch.randn(6, 8)).requires_grad_(), torch.randn(6, 6, 2, 2).requires_grad_()
    terms = objective(step_of(features(base, feature_map), labels=torch.tensor([0, 0, 1, 1, 2, 2])))
    leaves = [base, feature_map, *objective.parameters()]
    for name, reached in (("metric", 1), ("distillation", 1), ("features", 1)):
        grads = torch.autograd.grad(terms[name], leaves, retain_graph=True, allow_unused=True)
        assert [grad is not None for grad in grads] == [True] * reached + [False] * (len(leaves) - reached)
    grads = torch.autograd.grad(terms["auxiliary"], leaves, allow_unused=True)
    assert [grad is not None for grad in grads] == [False] + [True] * (len(leaves) - 1)


def test_s2sd_normalises_the_base_embedding_inside():
    torch.manual_seed(0)
    objective = S2SD(dims=(4,)).build(Shapes(8, 6), multi_similarity)
    base, feature_map, labels = torch.randn(6, 8), torch.randn(6, 6, 2, 2), torch.tensor([0, 0, 1, 1, 2, 2])
    found = objective(step_of(features(base, feature_map), labels=labels))
    longer = objective(step_of(features(3 * base, feature_map), labels=labels))
    for name in found:
        torch.testing.assert_close(found[name], longer[name])


def test_s2sd_diffuses_each_target():
    torch.manual_seed(0)
    diffusion = Diffusion(True, omega=0.7)
    objective = S2SD(dims=(4, 6), feature_delay=0, diffusion=diffusion).build(Shapes(8, 6), multi_similarity)
    base, feature_map = F.normalize(torch.randn(6, 8)), torch.randn(6, 6, 2, 2)
    terms = objective(step_of(features(base, feature_map)))
    log_student = (base @ base.T).log_softmax(1)

    def kernel(x):
        similarity = F.normalize(x) @ F.normalize(x).T
        walk = similarity.masked_fill(torch.eye(6, dtype=torch.bool), -math.inf).softmax(1)
        target = 0.3 * torch.linalg.inv(torch.eye(6) - 0.7 * walk) @ similarity.softmax(1)
        return (target * (target.log() - log_student)).sum(1).mean().item()

    pooled = feature_map.mean((2, 3))
    heads = [head(pooled) for head in objective.heads]
    assert terms["distillation"].item() == pytest.approx(50 * sum(map(kernel, heads)) / 2, rel=1e-3)
    assert terms["features"].item() == pytest.approx(50 * kernel(pooled), rel=1e-3)


@pytest.mark.parametrize("name", ["dsd", "msdf", "msdfa"])
def test_s2sd_learns_a_frozen_batch_where_its_own_teachers_stand_still(world, name):
    method = dataclasses.replace(PRESETS[name], dims=tuple(dim // 64 for dim in PRESETS[name].dims))
    home = world(method)
    objective, losses = home.objective(), []
    optimizer = torch.optim.Adam(home.student.embed.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = total(objective(home.step(None)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses[-5:]) < 0.9 * losses[0]


def test_s2sd_without_a_space_is_refused():
    with pytest.raises(ConfigError, match="dims"):
        S2SD(dims=()).build(Shapes(8, 6), multi_similarity)

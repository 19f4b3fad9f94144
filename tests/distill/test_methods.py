"""Each method's whole objective against its goldens, and the places where text and released code part (spec, section 0)."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dmkd.data.batches import Batches
from dmkd.data.views import Views
from dmkd.distill import METHODS, PRESETS, S2SD, Asymmetric, Kl, MetricLearning, ObdSd, Raml, Rkd, Yu
from dmkd.distill.base import Plan, Shapes, Step
from dmkd.distill.diffusion import Diffusion
from dmkd.errors import ConfigError, DataError, ShapeError, TrainingError
from dmkd.losses import Margin, MultiSimilarity, Triplet, margin_loss
from dmkd.models.embedder import Features


def features(embedding, feature_map=None, stages=None):
    empty = embedding.new_zeros(len(embedding), 1, 1, 1)
    feature_map = empty if feature_map is None else feature_map
    return Features(embedding, feature_map.mean((2, 3)), feature_map, stages or {})


def step_of(student, teacher=None, labels=None, **told):
    rows = torch.arange(len(student.embedding))
    told = {"iteration": 0, "progress": 0.0} | told
    return Step(rows if labels is None else labels, rows, 0 * rows, 0 * rows, student, teacher, **told)


def multi_similarity(dim):
    return MultiSimilarity().build(dim, 8)


class FixedTriplets(nn.Module):
    """The margin loss of given triplets, in place of its miner."""

    def __init__(self, triplets, beta):
        super().__init__()
        self.triplets, self.beta = triplets, nn.Parameter(torch.full((6,), beta, dtype=torch.float64))

    def forward(self, x, labels):
        return margin_loss(x, labels, self.triplets, self.beta, margin=0.2)


def total(terms):
    return sum(terms.values())


# Yu ------------------------------------------------------------------------------------------------------------------


def test_yu_meets_the_golden_of_the_training_loop(golden):
    data = golden("yu_total_relative_B8_lam0.3")
    batch_hard = Triplet(margin=0.0, sampler="batch_hard").build(6, 8)
    objective = Yu(relative=0.3).build(Shapes(6, 1, teacher=Shapes(6, 1)), lambda dim: batch_hard)
    student = data.leaf("student")
    terms = objective(step_of(features(student), features(data["teacher"]), data["labels"]))
    assert set(terms) == {"metric", "relative"}
    data.check(total(terms), student=student)


def test_the_relative_teacher_may_have_another_dimension_and_the_absolute_may_not():
    shapes = Shapes(128, 512, teacher=Shapes(512, 2048))
    Yu(relative=0.3).build(shapes, multi_similarity)
    with pytest.raises(ShapeError, match=r"128.*512"):
        Yu(absolute=1.0).build(shapes, multi_similarity)


def test_hints_of_other_channels_need_an_adapter_asked_for():
    student = {"layer1": 3, "layer2": 4}
    shapes = Shapes(8, 4, student, Shapes(8, 8, {"layer1": 3, "layer2": 8}))
    method = Yu(relative=0, hint=1.0, layers=("layer1", "layer2"))
    with pytest.raises(ShapeError, match=r"layer2 the student has 4 channels, the teacher 8"):
        method.build(shapes, multi_similarity)
    objective = dataclasses.replace(method, hint_adapter=True).build(shapes, multi_similarity)
    assert {name: tuple(value.shape) for name, value in objective.named_parameters()} == {"adapters.layer2.weight": (8, 4, 1, 1)}


def test_yu_asks_for_stages_only_where_a_term_looks_at_them():
    assert Yu().stages == ()
    assert Yu(attention=1.0, layers=("layer4",)).stages == ("layer4",)


def test_hint_and_attention_sum_over_the_layers():
    torch.manual_seed(0)
    stages = [{name: torch.randn(2, 3, 2, 2) for name in ("layer1", "layer2")} for _ in range(2)]
    shapes = Shapes(4, 3, {"layer1": 3, "layer2": 3}, Shapes(4, 3, {"layer1": 3, "layer2": 3}))
    method = Yu(relative=0, hint=2.0, attention=3.0, layers=("layer1", "layer2"))
    x = F.normalize(torch.randn(2, 4))
    terms = method.build(shapes, multi_similarity)(step_of(features(x, stages=stages[0]), features(x, stages=stages[1])))

    def attention(z):
        return F.normalize(z.abs().sum(1).flatten(1))

    pairs = [(stages[0][name], stages[1][name]) for name in ("layer1", "layer2")]
    assert terms["hint"].item() == pytest.approx(
        2 * sum((a - b).flatten(1).norm(dim=1).mean().item() for a, b in pairs), rel=1e-5
    )
    expected = 3 * sum((attention(a) - attention(b)).norm(dim=1).mean().item() for a, b in pairs)
    assert terms["attention"].item() == pytest.approx(expected, rel=1e-5)


# S2SD ----------------------------------------------------------------------------------------------------------------

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
        similarity = (lambda z: z @ z.T)(F.normalize(x))  # noqa: PLC3002
        walk = similarity.masked_fill(torch.eye(6, dtype=torch.bool), -math.inf).softmax(1)
        target = 0.3 * torch.linalg.inv(torch.eye(6) - 0.7 * walk) @ similarity.softmax(1)
        return (target * (target.log() - log_student)).sum(1).mean().item()

    pooled = feature_map.mean((2, 3))
    heads = [head(pooled) for head in objective.heads]
    assert terms["distillation"].item() == pytest.approx(50 * sum(map(kernel, heads)) / 2, rel=1e-3)
    assert terms["features"].item() == pytest.approx(50 * kernel(pooled), rel=1e-3)


def test_s2sd_without_a_space_is_refused():
    with pytest.raises(ConfigError, match="dims"):
        S2SD(dims=()).build(Shapes(8, 6), multi_similarity)


# RAML ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["abs", "abs_relts", "abs_relss", "full", "full_cub"])
def test_raml_meets_its_goldens(golden, name):
    data = golden(f"raml_{name}_B2_A3")
    weights = {"rel_ts": data.constants["lam_1_ts"], "rel_ss": data.constants["lam_2_ss"]}
    method = Raml(views=Views(per_image=3), reduction="sum", **weights)
    objective = method.build(Shapes(6, 1, teacher=Shapes(6, 1)), multi_similarity)
    student = data.leaf("student")
    terms = objective(step_of(features(student.flatten(0, 1)), features(data["teacher"].flatten(0, 1))))
    assert set(terms) == {"abs"} | {key for key, weight in weights.items() if weight}
    data.check(total(terms), student=student)


def test_raml_defaults_are_the_papers_and_its_mean_is_the_sum_over_images():
    method = Raml()
    assert (method.abs, method.rel_ts, method.rel_ss, method.reduction) == (1, 0.7, 0.7, "mean")
    assert (method.views.per_image, method.views.mixup, method.views.augmentation) == (8, 0.2, "crop_flip_jitter")
    assert method.gallery == "teacher"
    torch.manual_seed(0)
    student, teacher = (F.normalize(torch.randn(3 * 8, 6)) for _ in range(2))
    shapes, losses = Shapes(6, 1, teacher=Shapes(6, 1)), {}
    for reduction in ("mean", "sum"):
        objective = Raml(reduction=reduction).build(shapes, multi_similarity)
        losses[reduction] = total(objective(step_of(features(student), features(teacher)))).item()
    assert losses["sum"] == pytest.approx(3 * losses["mean"], rel=1e-5)


def test_raml_refuses_another_dimension_and_names_what_one_view_cannot_give():
    with pytest.raises(ShapeError, match=r"128.*512"):
        Raml().build(Shapes(128, 1, teacher=Shapes(512, 1)), multi_similarity)
    assert Raml(views=Views(per_image=1)).inactive_terms(Plan(1, 1)) == ("rel_ts", "rel_ss")
    assert Raml().inactive_terms(Plan(1, 1)) == ()


# OBD-SD --------------------------------------------------------------------------------------------------------------


def obd_sd_of(data):
    constants = data.constants
    diffusion = Diffusion("omega" in constants, constants.get("omega", 0.5), constants.get("diffusion_tau", 1.0))
    method = ObdSd(weight=constants["lambda"], temperature=constants["tau"], diffusion=diffusion)
    return method, constants["epoch_zero_based"] / constants["n_epochs"]


@pytest.mark.parametrize(
    "name", ["obdsd_ms_cub_ep0", "obdsd_ms_cub_ep75", "obdsd_ms_cub_ep149", "obdsd_ms_cars_ep75", "obdsd_ms_sop_ep75", "obdsd_ms_tau0.5", "psd_ms"]
)  # fmt: skip
def test_obd_sd_meets_its_goldens(golden, name):
    data = golden(f"{name}_B8")
    method, progress = obd_sd_of(data)
    student = data.leaf("student")
    step = step_of(features(student), features(data["teacher"]), data["labels"], progress=progress)
    data.check(total(method.build(Shapes(6, 1), multi_similarity)(step)), student=student)


def test_obd_sd_with_margin_loss_meets_its_golden(golden):
    data = golden("obdsd_margin_cub_ep75_B8")
    method, progress = obd_sd_of(data)
    metric = FixedTriplets(data["triplets"], 1.2)
    student = data.leaf("student")
    step = step_of(features(student), features(data["teacher"]), data["labels"], progress=progress)
    data.check(total(method.build(Shapes(6, 1), lambda dim: metric)(step)), student=student, beta=metric.beta)


def test_plain_metric_learning_meets_its_golden(golden):
    data = golden("obdsd_ms_baseline_B8")
    student = data.leaf("student")
    objective = MetricLearning().build(Shapes(6, 1), multi_similarity)
    data.check(total(objective(step_of(features(student), labels=data["labels"]))), student=student)


def test_obd_sd_needs_no_teacher_in_the_first_epoch_and_one_afterwards():
    objective = ObdSd().build(Shapes(6, 1), multi_similarity)
    student = features(F.normalize(torch.randn(4, 6)))
    assert objective(step_of(student, progress=0.0))["distillation"].item() == 0
    with pytest.raises(TrainingError, match="teacher"):
        objective(step_of(student, progress=0.1))


def test_obd_sd_is_ready_after_half_the_plan_and_a_single_epoch_never_distils():
    assert [ObdSd().ready_after(Plan(epochs, 9)) for epochs in (150, 3, 1)] == [75, 2, 1]
    assert ObdSd().inactive_terms(Plan(1, 9)) == ("distillation",)
    assert ObdSd(dynamic=False).ready_after(Plan(150, 9)) == 1
    assert ObdSd(dynamic=False).inactive_terms(Plan(1, 9)) == ()


def test_obd_sd_presets_are_the_published_numbers():
    settings = {name: (x.weight, x.diffusion.omega, x.diffusion.temperature) for name, x in PRESETS.items() if "obd" in name}
    assert settings == {"obd_sd": (75, 0.99, 1), "obd_sd_cub": (1000, 0.3, 1), "obd_sd_sop": (100, 0.5, 0.005)}
    assert PRESETS["obd_sd"] == ObdSd()
    assert not PRESETS["psd"].diffusion.enabled


# Asymmetric ----------------------------------------------------------------------------------------------------------


def small(method, iterations=8):
    return dataclasses.replace(method, batches=dataclasses.replace(method.batches, size=4, iterations=iterations))


@pytest.mark.parametrize(
    "name", ["aml_contr", "aml_contr_plus", "aml_contr_paper", "aml_contr_plus_paper", "aml_triplet", "aml_ms_paper"]
)
def test_asymmetric_objectives_meet_the_goldens_of_their_tuples(golden, name):
    """The golden's columns are anchor, (anchor's own), positive, negatives; the teacher's part is stored, so only column 0 learns."""
    data = golden("aml_ms_paper_d8" if name == "aml_ms_paper" else f"{name}_q1_d8")
    form = "paper" if name.endswith("paper") else "released"
    preset = {"triplet": "aml_triplet", "ms": "aml_multi_similarity", "contr": "aml_contrastive"}[name.split("_")[1]]
    method = dataclasses.replace(PRESETS[preset], own="plus" in name, form=form)
    objective = method.build(Shapes(8, 1, teacher=Shapes(8, 1)), multi_similarity)
    columns = data["columns"].T
    others = columns[1:]
    objective.stored = others if method.own else torch.cat((columns[:1], others))
    anchor = columns[:1].clone().requires_grad_()
    (loss,) = objective(step_of(features(anchor), tuples=torch.arange(len(objective.stored))[None])).values()
    torch.testing.assert_close(loss.detach(), data["loss"], rtol=1e-9, atol=1e-9)
    loss.backward()
    torch.testing.assert_close(anchor.grad[0], data["grad_columns"][:, 0], rtol=1e-5, atol=1e-8)


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


# Baselines -----------------------------------------------------------------------------------------------------------


def test_baselines_weigh_the_base_loss_and_the_relation():
    torch.manual_seed(0)
    student, teacher = F.normalize(torch.randn(6, 4)), F.normalize(torch.randn(6, 9))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    shapes = Shapes(4, 1, teacher=Shapes(9, 1))
    terms = Kl(weight=7, metric=2).build(shapes, multi_similarity)(step_of(features(student), features(teacher), labels))
    p, q = (teacher @ teacher.T).softmax(1), (student @ student.T).softmax(1)
    assert terms["distillation"].item() == pytest.approx(7 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-4)
    assert terms["metric"].item() == pytest.approx(2 * multi_similarity(4)(student, labels).item(), rel=1e-6)
    assert set(Rkd(metric=0).build(shapes, multi_similarity)(step_of(features(student), features(teacher)))) == {"distillation"}
    with pytest.raises(ConfigError, match="nothing to train"):
        Rkd(metric=0, weight=0).build(shapes, multi_similarity)


def test_bar_has_the_published_weights():
    assert (PRESETS["bar"].weight, PRESETS["bar_cars"].weight) == (100, 50)


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.teacher == "pretrained"])
def test_a_missing_teacher_is_one_clear_line(name):
    with pytest.raises(ConfigError, match=r"teacher\.checkpoint"):
        METHODS[name]().build(Shapes(8, 6), multi_similarity)

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_world import features, multi_similarity, step_of, total
from torch.nn import functional as F

from dmkd.distill import PRESETS, Yu
from dmkd.distill.base import Shapes
from dmkd.errors import ConfigError, ShapeError
from dmkd.losses import Triplet
from dmkd.models import Network
from dmkd.models.embedder import assemble


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


def test_yu_weighs_both_teachers():
    torch.manual_seed(0)
    student, teacher = (F.normalize(torch.randn(4, 6)) for _ in range(2))
    method = Yu(absolute=2.0, relative=0.5, form="paper")
    terms = method.build(Shapes(6, 1, teacher=Shapes(6, 1)), multi_similarity)(step_of(features(student), features(teacher)))
    assert terms["absolute"].item() == pytest.approx(2 * (student - teacher).norm(dim=1).mean().item(), rel=1e-4)
    gaps = (torch.pdist(student) - torch.pdist(teacher)).abs()
    assert terms["relative"].item() == pytest.approx(0.5 * gaps.mean().item(), rel=1e-4)


def test_the_teachers_layers_may_be_called_otherwise():
    torch.manual_seed(0)
    x, ours, theirs = F.normalize(torch.randn(2, 4)), torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    shapes = Shapes(4, 3, {"layer1": 3}, Shapes(4, 3, {"layer1.2.conv2": 3}))
    method = Yu(relative=0, hint=1.0, attention=1.0, layers=("layer1",), teacher_layers=("layer1.2.conv2",))
    assert (method.stages, method.teacher_stages) == (("layer1",), ("layer1.2.conv2",))
    student, teacher = features(x, stages={"layer1": ours}), features(x, stages={"layer1.2.conv2": theirs})
    terms = method.build(shapes, multi_similarity)(step_of(student, teacher))
    assert terms["hint"].item() == pytest.approx((ours - theirs).flatten(1).norm(dim=1).mean().item(), rel=1e-5)
    zagoruyko = dataclasses.replace(method, attention_form="zagoruyko").build(shapes, multi_similarity)
    maps = [F.normalize((z**2).mean(1).flatten(1)) for z in (ours, theirs)]
    assert zagoruyko(step_of(student, teacher))["attention"].item() == pytest.approx((maps[0] - maps[1]).square().mean().item())
    with pytest.raises(ConfigError, match=r"2 method\.teacher_layers for 1"):
        dataclasses.replace(method, teacher_layers=("a", "b")).build(shapes, multi_similarity)
    wide = Shapes(4, 3, {"layer1": 3}, Shapes(4, 3, {"layer1.2.conv2": 9}))
    with pytest.raises(ShapeError, match=r"layer1 the student has 3 channels, the teacher 9 at layer1\.2\.conv2"):
        method.build(wide, multi_similarity)


def test_resnet_101_has_the_channels_of_resnet_18_where_the_presets_tap_it():
    preset = PRESETS["yu_relative_hint"]
    networks = [assemble(Network(name, weights="none", dim=4, resolution=64)) for name in ("resnet18", "resnet101")]
    shapes = [net.sizes(stages) for net, stages in zip(networks, (preset.stages, preset.teacher_stages), strict=True)]
    assert [list(channels.values()) for _, _, channels in shapes] == [[64, 128, 256, 512]] * 2
    preset.build(Shapes(*shapes[0], teacher=Shapes(*shapes[1])), multi_similarity)
    with torch.no_grad():
        maps = [
            net.eval()(torch.rand(1, 3, 64, 64), stages).stages
            for net, stages in zip(networks, (preset.stages, preset.teacher_stages), strict=True)
        ]
    assert [x.shape for x in maps[0].values()] == [x.shape for x in maps[1].values()]


def test_distillation_alone_needs_no_labels_and_no_base_loss():
    torch.manual_seed(0)
    student, teacher = (features(F.normalize(torch.randn(4, 6))) for _ in range(2))
    shapes = Shapes(6, 1, teacher=Shapes(6, 1))

    def refused(dim):
        raise AssertionError("no base loss is wanted")

    objective = Yu(metric=0.0).build(shapes, refused)
    assert set(objective(step_of(student, teacher, torch.full((4,), -1)))) == {"relative"}
    with pytest.raises(ConfigError, match="nothing to train"):
        Yu(metric=0.0, relative=0.0).build(shapes, multi_similarity)
    whole = Yu(metric=3.0).build(shapes, multi_similarity)(step_of(student, teacher, torch.tensor([0, 0, 1, 1])))
    expected = 3 * multi_similarity(6)(student.embedding, torch.tensor([0, 0, 1, 1])).item()
    assert whole["metric"].item() == pytest.approx(expected, rel=1e-6)


def test_the_metric_sees_the_labelled_part_and_distillation_all():
    torch.manual_seed(0)
    student, teacher = (features(F.normalize(torch.randn(6, 6))) for _ in range(2))
    labels = torch.tensor([0, 0, -1, 1, 1, -1])
    terms = Yu().build(Shapes(6, 1, teacher=Shapes(6, 1)), multi_similarity)(step_of(student, teacher, labels))
    known = labels >= 0
    assert terms["metric"].item() == pytest.approx(multi_similarity(6)(student.embedding[known], labels[known]).item(), rel=1e-5)
    gap = torch.cdist(student.embedding, student.embedding) - torch.cdist(teacher.embedding, teacher.embedding)
    assert terms["relative"].item() == pytest.approx(0.3 * gap.norm().item(), rel=1e-4)


def test_presets_have_the_published_weights():
    weights = {name: (x.absolute, x.relative) for name, x in PRESETS.items() if x.name == "yu"}
    for name, (absolute, relative) in weights.items():
        data = name.rsplit("_", 1)[-1]
        published = {"cars": (1.5, 0.1), "sop": (2.0, 1.0)}.get(data, (1.0, 0.3))
        assert absolute == (published[0] if "absolute" in name else 0), name
        assert relative == (published[1] if "relative" in name else 0), name
    assert {name for name in weights if PRESETS[name].hint} == {name for name in weights if "hint" in name}
    assert {name for name in weights if PRESETS[name].attention} == {name for name in weights if "attention" in name}
    batches = [PRESETS[name].batches for name in ("yu_relative", "yu_darkrank", "yu_pkt")]
    assert all((x.size, x.images_per_class, x.replacement) == (32, 8, False) for x in batches)

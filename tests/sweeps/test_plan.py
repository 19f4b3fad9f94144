"""What a sweep decides, and refuses, before a cluster starts."""

from __future__ import annotations

import dataclasses

import pytest

from dmkd.checkpoint import save_model
from dmkd.config import Config
from dmkd.data.batches import Batches
from dmkd.data.samplers import epoch_length
from dmkd.data.views import Views
from dmkd.distill.base import Plan
from dmkd.distill.obd_sd import ObdSd
from dmkd.distill.raml import Raml
from dmkd.distill.s2sd import S2SD
from dmkd.distill.yu import Yu
from dmkd.errors import CheckpointError, ConfigError, DataError, SweepError
from dmkd.models import Network
from dmkd.models.embedder import build_network
from dmkd.space import Choice, Range, override
from sweeps.options import Options, parse
from sweeps.places import STUDY
from sweeps.plan import (
    Definition,
    bounded,
    configured,
    find_objectives,
    gflops_refusal,
    grace_epochs,
    inactive,
)
from sweeps.prepare import prepare
from sweeps.record import open_record
from sweeps.rows import FINAL, final_jobs, final_rows, row_id
from sweeps.space import Searched


def test_the_first_rung_lies_beyond_the_ramp():
    cars = Plan(epochs=150, iterations_per_epoch=71)
    grace, warning = grace_epochs(Config(method=S2SD()), cars, "auto")
    # The feature term starts after 1000 steps: in epoch 15 (steps 994 .. 1064).
    assert (grace, warning) == (15, "")
    obd, _ = grace_epochs(Config(method=ObdSd()), cars, "auto")
    assert obd is not None
    assert obd >= ObdSd().ready_after(cars) > 1


def test_a_plan_too_short_for_early_stopping_turns_it_off_with_numbers_or_refuses_it():
    short = Plan(epochs=10, iterations_per_epoch=71)
    assert grace_epochs(Config(method=S2SD()), short, "auto") == (
        None,
        "early stopping is off: s2sd/msdf says little before epoch 15 and 10 are planned",
    )
    with pytest.raises(SweepError, match="epoch 15 and 10 are planned: plan more than 15 epochs"):
        grace_epochs(Config(method=S2SD()), short, "asha")
    assert grace_epochs(Config(method=S2SD()), short, "none") == (None, "")
    assert inactive(Config(method=S2SD()), short) == "features of s2sd/msdf can never become active within 710 steps"


def test_the_objective_follows_the_gallery():
    assert find_objectives(Config(method=S2SD()), ()).accuracy == "val/recall_at_1"
    assert find_objectives(Config(method=Raml()), ()).accuracy == "val_asymmetric/recall_at_1"
    assert find_objectives(Config(method=Raml()), ("val/map",)).accuracy == "val/map"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective", "test/recall_at_1"], "a search that looks at test classes makes their score worthless"),
        (["--objective", "recall"], "wanted a validation metric"),
        (["--trials", "0"], "--trials: found 0, wanted 1 or more"),
        (["--trials", "many"], "invalid int value: 'many'"),
        (["--hours", "nan"], "--hours: found nan"),
        (["--gpus-per-trial", "2"], "wanted 0 to 1"),
        (["--gpus-per-trial", "most"], "found most, wanted 0 to 1"),
        (["--early-stopping", "hyperband"], "invalid choice"),
        (["--trails", "3"], "unknown option '--trails': did you mean '--trials'"),
        (["--warm-stat", "x"], "unknown option '--warm-stat': did you mean '--warm-start'"),
        (["--objective", "val/map", "--objective", "val/recall_at_1"], "wanted one validation metric beside costs"),
        (["--objective", "gflop"], "or a cost: did you mean 'gflops'"),
        (["--objective", "dim", "--objective", "model/dim"], "model/dim is given twice"),
        (["--latency-on", "gpu"], "wanted cpu:THREADS or cuda"),
        (["--folds", "1"], "--folds: found 1, wanted 2 or more"),
        (["--search-seeds", "0"], "--search-seeds: found 0"),
        (["--gpu-hours", "0"], "--gpu-hours: found 0.0"),
    ],
)
def test_a_bad_command_line_is_one_line(arguments, message):
    with pytest.raises(SweepError) as error:
        parse("x", "", arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_options_reach_the_base_and_where_they_concern_the_data_the_teacher(tmp_path, teacher, base):
    stated = Definition("x", base, teacher=teacher)
    typed = [
        "--epochs",
        "7",
        "--set",
        "optim.lr=2e-5",
        "--set",
        "data.max_classes=4",
        "--data-root",
        str(tmp_path),
        "--name",
        "y",
    ]
    made = configured(stated, parse("x", "", typed))
    assert (made.name, made.base.optim.epochs, made.base.optim.lr) == ("y", 7, 2e-5)
    assert made.teacher is not None
    assert made.base.data == made.teacher.data == dataclasses.replace(base.data, max_classes=4, root=str(tmp_path))
    assert made.teacher.optim == teacher.optim
    with pytest.raises(ConfigError, match=r"did you mean 'lr'|optim.lr"):
        configured(stated, Options(set=("optim.lrr=1",)))


def test_final_rows_are_one_of_each_configuration(base, teacher):
    definition = Definition("x", base, teacher=teacher, seeds=2)
    best = {"trial 4": {"optim.lr": 5e-3}, "trial 0 again": {"optim.lr": base.optim.lr}}
    with_teacher = dataclasses.replace(definition, base=override(base, {"teacher.checkpoint": "/somewhere"}))
    rows = final_rows(with_teacher, best, "/somewhere")
    assert [(row.label, row.seeds, row.reference) for row in rows] == [
        ("trial 0", 2, ""),
        ("trial 4", 2, ""),
        ("untrained", 1, "untrained"),
        ("undistilled", 2, "undistilled"),
        ("teacher", 1, "teacher"),
    ]
    configs = {row.label: override(with_teacher.base, row.values | FINAL) for row in rows}
    assert configs["untrained"].student.dim == configs["untrained"].optim.epochs == 0
    assert configs["undistilled"].method.name == "metric_learning"
    assert configs["undistilled"].method.batches == base.method.batches
    assert configs["teacher"].student.checkpoint == "/somewhere"
    assert all(config.evaluation.test and config.data.validation == 0 for config in configs.values())
    jobs = final_jobs(with_teacher, rows)
    assert len({job.key for job in jobs}) == len(jobs) == 8
    teachers = [job for job in jobs if job.tags["dmkd.label"] == "teacher"]
    assert teachers[0].tags["dmkd.row"] == row_id(teacher, {})


def test_a_base_without_a_teacher_is_its_own_undistilled_reference(teacher):
    rows = final_rows(Definition("x", teacher), {}, "")
    assert [(row.label, row.reference) for row in rows] == [("trial 0", "undistilled"), ("untrained", "untrained")]


def test_max_gflops_bounds_what_is_proposed_and_keeps_the_paper(base):
    searched = Searched(base, {"student.resolution": Choice((32, 64, 96)), "optim.lr": Range(1e-4, 1e-2)})
    costs = {size: gflops_refusal(searched, {"student.resolution": size}, 1e-9) for size in (32, 64)}
    assert "32 px costs" in costs[32]
    allowed = next(
        bound / 1000 for bound in range(1, 100) if not gflops_refusal(searched, {"student.resolution": 64}, bound / 1000)
    )
    entry = bounded(searched, allowed).space["student.resolution"]
    assert isinstance(entry, Choice)
    assert entry.options == (32, 64)
    largest = Searched(override(base, {"student.resolution": 96}), searched.space)
    kept = bounded(largest, allowed).space["student.resolution"]
    assert isinstance(kept, Choice)
    assert kept.options == (32, 64, 96)
    assert gflops_refusal(largest, {}, allowed)
    with pytest.raises(SweepError, match=r"nothing in student.resolution is left"):
        bounded(searched, 1e-9)


def test_everything_that_can_be_known_is_refused_before_ray(base, teacher, tmp_path):
    def refused(error, message, base=base, options=None, **changes):
        options = options or Options()
        with pytest.raises(error, match=message) as found:
            prepare(configured(Definition("x", base, **({"teacher": teacher} | changes)), options), options)
        assert "\n" not in str(found.value)

    refused(DataError, "nowhere", options=Options(data_root=str(tmp_path / "nowhere")))
    refused(SweepError, "by the final stage", options=Options(set=("evaluation.test=true",)))
    refused(SweepError, "needs validation classes", options=Options(set=("data.validation=0",)))
    refused(SweepError, "did you mean 'tpe'", options=Options(sampler="tpee"))
    refused(SweepError, "cmaes cannot serve several", options=Options(sampler="cmaes", objective=("dim",)))
    refused(SweepError, "grid cannot serve", options=Options(sampler="grid"), space={
        "method.absolute": Range(0, 1, when=("method.hint_adapter", True)), "method.hint_adapter": Choice((False, True))
    })  # fmt: skip
    refused(ConfigError, "mobilenetv3", options=Options(set=("student.backbone=timm/mobilenetv3_smal_050",)))
    refused(SweepError, "learns from a pretrained teacher: give one", teacher=None)
    refused(CheckpointError, "no-such-folder", options=Options(set=("teacher.checkpoint=no-such-folder",)))
    refused(SweepError, "decides what is measured", space={"data.validation": Range(0.1, 0.3)})
    same = (Yu(absolute=1.0, relative=0.0), Yu(absolute=3.0, relative=0.0))
    refused(
        SweepError, "several options called yu/absolute", space={"method": Choice(same)}, base=override(base, {"method": same[0]})
    )
    refused(ConfigError, "lies outside", points=({"optim.lr": 5.0},), space={"optim.lr": Range(1e-4, 1e-2)})


def test_reference_rows_of_a_student_that_starts_from_its_teacher_stand_on_their_own(base, teacher):
    """No teacher is left for them to start from."""
    started = override(base, {"student.checkpoint": "teacher"})
    rows = {
        row.reference: override(started, row.values) for row in final_rows(Definition("x", started, teacher=teacher), {}, "t")
    }
    assert rows["undistilled"].student.checkpoint == rows["untrained"].student.checkpoint == ""
    assert rows["teacher"].student.checkpoint == "t"
    assert rows[""].student.checkpoint == "teacher"


@pytest.mark.parametrize("iterations", [7, 0])
def test_the_undistilled_reference_of_plain_batches_learns_from_pairs(base, iterations):
    """RAML's random pictures would leave a metric loss without positives, and its views are most of the pictures it sees."""
    plain = Batches(kind="plain", size=9, images_per_class=1, replacement=False, drop_last=False, iterations=iterations)
    method = Raml(batches=plain, views=Views(per_image=3))
    rows = final_rows(Definition("x", override(base, {"method": method})), {}, "")
    (made,) = [override(base, row.values).method for row in rows if row.reference == "undistilled"]
    assert (made.name, made.views.per_image) == ("metric_learning", 1)
    assert (made.batches.kind, made.batches.images_per_class) == ("classes", 2)
    assert made.batches.size == (28 if iterations else 10)
    assert epoch_length(made.batches, 100, 20) == (iterations or 10)


def test_trial_0_beyond_the_bound_is_a_reference(base, teacher):
    definition = Definition("x", base, teacher=teacher)
    assert final_rows(definition, {}, "t", beyond=True)[0].reference == "paper"
    assert final_rows(definition, {}, "t")[0].reference == ""


def test_a_teacher_that_is_given_is_the_teachers_row(base, teacher, tmp_path):
    net = build_network(Network(backbone="resnet18", weights="none", dim=24, resolution=64))
    save_model(net, tmp_path / "teacher", resolution=64)
    given = Options(set=(f"teacher.checkpoint={tmp_path / 'teacher'}",))
    definition = configured(Definition("x", base, teacher=teacher), given)
    assert definition.teacher is None
    (row,) = (row for row in final_rows(definition, {}, definition.base.teacher.checkpoint) if row.reference == "teacher")
    student = override(base, row.values).student
    assert (student.backbone, student.dim, student.resolution) == ("resnet18", 24, 64)
    assert student.checkpoint == str(tmp_path / "teacher")


def record(folder, definition, **options):
    return open_record(folder, definition, "val/recall_at_1", Options(**options))


def test_the_same_name_goes_on_only_as_the_same_sweep(base, teacher, tmp_path):
    definition = Definition("x", base, {"optim.lr": Range(1e-4, 1e-2)}, teacher=teacher, trials=5)
    first = record(tmp_path, definition)
    (tmp_path / "trials" / "trial_0000").mkdir(parents=True)
    with pytest.raises(SweepError, match="--resume goes on"):
        record(tmp_path, definition)
    assert record(tmp_path, definition, resume=True).id == first.id
    changed = dataclasses.replace(definition, base=override(base, {"optim.epochs": 9}))
    with pytest.raises(SweepError, match=r"optim.epochs: 3 -> 9"):
        record(tmp_path, changed, resume=True)
    with pytest.raises(SweepError, match=r"search space of optim.lr"):
        record(tmp_path, dataclasses.replace(definition, space={"optim.lr": Range(1e-5, 1e-2)}), resume=True)
    with pytest.raises(SweepError, match="has 5 trials, --trials asks for 8: use --extend"):
        record(tmp_path, definition, resume=True, trials=8)
    first.finished = True
    first.save()
    assert record(tmp_path, definition).finished
    longer = record(tmp_path, definition, extend=3)
    assert (longer.trials, longer.finished, longer.id) == (8, False, first.id)
    moved = dataclasses.replace(definition, base=override(base, {"data.root": "/elsewhere"}))
    assert record(tmp_path, moved, resume=True).id == first.id


def test_a_sweep_that_was_refused_before_its_first_trial_starts_anew_also_when_it_was_changed(base, tmp_path):
    """The user mends what the refusal named, and types the same line again."""
    definition = Definition("x", base, {"optim.lr": Range(1e-4, 1e-2)}, trials=5)
    first = record(tmp_path, definition)
    (tmp_path / "trials").mkdir()
    (tmp_path / STUDY).write_text("asked, and not begun")
    mended = dataclasses.replace(definition, base=override(base, {"optim.epochs": 9}), trials=8)
    again = record(tmp_path, mended)
    assert (again.trials, again.finished) == (8, False)
    assert again.id != first.id
    assert not (tmp_path / STUDY).exists()
    again.finished = True
    again.save()
    assert record(tmp_path, mended).id == again.id


def test_a_backbone_and_its_resolution_are_refused_as_a_pair():
    base = Config(student=Network(backbone="resnet18", resolution=64))
    space = {"student.backbone": Choice(("resnet18", "resnet50")), "student.resolution": Choice((64, 128))}
    searched = Searched(base, space)
    cheap, dear = {"student.resolution": 64}, {"student.backbone": "resnet50", "student.resolution": 128}
    assert bounded(searched, 0.5) is searched
    assert not gflops_refusal(searched, cheap, 0.5)
    # ResNet-50 costs 4.1 GFLOPs at 224 px, and a third of that at 128.
    assert "resnet50 at 128 px costs 1.3" in gflops_refusal(searched, dear, 0.5)

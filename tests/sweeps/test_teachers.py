"""Teachers as named stages: what one was trained on is checked; a trained one is found by row, configuration and split."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dmkd.checkpoint import read_info, save_model
from dmkd.config import Config
from dmkd.data.datasets import load_dataset
from dmkd.data.lineage import known_classes, lineage
from dmkd.data.splits import Parts, split
from dmkd.errors import SweepError
from dmkd.models import Network
from dmkd.models.embedder import build_network
from dmkd.run import train_into
from dmkd.space import override
from sweeps.options import Options
from sweeps.plan import Definition, configured
from sweeps.prepare import prepare
from sweeps.teachers import check_training, find_teacher, keep_teacher, model_alias, model_name
from tests.pictures import make_manifest
from tracking.runs import log_run


def parts_of(config: Config, **data: object) -> Parts:
    changed = dataclasses.replace(config.data, **data)  # type: ignore[arg-type]
    return split(load_dataset(changed), changed)


def checkpoint(folder: Path, trained: Parts | None) -> str:
    """A network that says it was trained on the training classes of `trained`."""
    net = build_network(Network(backbone="timm/test_efficientnet", weights="none", dim=4, resolution=32))
    save_model(net, folder, resolution=32, extra={"trained_on": lineage(trained)} if trained else {})
    return str(folder)


def test_a_run_writes_the_classes_that_it_was_trained_on(teacher: Config, tmp_path: Path) -> None:
    (epoch,) = train_into(override(teacher, {"method.batches.iterations": 1}), tmp_path)
    told = read_info(tmp_path / "checkpoint")["extra"]["trained_on"]
    parts = epoch.training.parts
    assert told["dataset"] == "folder"
    assert told["fingerprint"] == parts.fingerprint
    assert told["training_classes"]["count"] == len(parts.train.classes)
    assert parts.val is not None
    assert parts.test is not None
    assert known_classes(told, parts.train.classes) == list(parts.train.classes)
    assert known_classes(told, [*parts.val.classes, *parts.test.classes]) == []


def test_an_evaluated_network_claims_no_training(teacher: Config, tmp_path: Path) -> None:
    list(train_into(override(teacher, {"optim.epochs": 0}), tmp_path))
    assert "trained_on" not in read_info(tmp_path / "checkpoint")["extra"]


def test_a_teacher_that_knows_the_test_classes_is_refused(teacher: Config, pictures: Path, tmp_path: Path) -> None:
    """Trained on half the classes of another split of the same pictures, in which our test classes train."""
    manifest = make_manifest(tmp_path / "own", classes=16, per_class=6, size=48)
    swapped = parts_of(teacher, name="manifest", root=str(manifest), validation=0.0)
    parts = parts_of(teacher)
    assert parts.test is not None
    seen = sorted(set(swapped.train.classes) & set(parts.test.classes))
    assert seen
    with pytest.raises(SweepError, match=f"on {len(seen)} of the {len(parts.test.classes)} test classes .*train one: do this"):
        check_training(checkpoint(tmp_path / "t", swapped), parts, "do this")


def test_a_teacher_that_knows_the_validation_classes_is_refused_in_a_search_alone(teacher: Config, tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "t", parts_of(teacher, validation=0.0))
    with pytest.raises(SweepError, match=r"was trained on 3 of the 3 validation classes \(first 'class_00"):
        check_training(whole, parts_of(teacher), "")
    assert check_training(whole, parts_of(teacher, validation=0.0), "") == ""
    held_out = checkpoint(tmp_path / "held-out", parts_of(teacher))
    assert check_training(held_out, parts_of(teacher), "") == ""
    with pytest.raises(SweepError, match="validation classes"):
        check_training(held_out, parts_of(teacher, split_seed=1), "")


def test_a_teacher_of_unknown_or_foreign_training_is_named_aloud(teacher: Config, base: Config, tmp_path: Path) -> None:
    unknown = checkpoint(tmp_path / "unknown", None)
    assert "its training classes are not recorded" in check_training(unknown, parts_of(teacher), "")
    parts = parts_of(teacher)
    foreign = dataclasses.replace(parts, train=dataclasses.replace(parts.train, classes=("a", "b")))
    assert "trained on other classes" in check_training(checkpoint(tmp_path / "foreign", foreign), parts, "")
    options = Options(set=(f"teacher.checkpoint={unknown}",))
    prepared = prepare(configured(Definition("x", base), options), options)
    assert any("not recorded" in warning for warning in prepared.warnings)


def test_a_sweep_refuses_a_given_teacher_that_has_seen_its_validation_classes(
    base: Config, teacher: Config, tmp_path: Path
) -> None:
    options = Options(set=(f"teacher.checkpoint={checkpoint(tmp_path / 't', parts_of(teacher, validation=0.0))}",))
    with pytest.raises(SweepError, match="of the 3 validation classes"):
        prepare(configured(Definition("x", base), options), options)


def test_a_teacher_is_found_by_its_row_its_configuration_and_its_split(teacher: Config, tmp_path: Path) -> None:
    uri, name = f"sqlite:///{tmp_path}/mlflow.db", model_name("yu2019/T1/cub200/teacher/triplet/512")
    assert name == "teacher yu2019.T1.cub200.teacher.triplet.512"
    alias = model_alias("0123456789ab", "fedcba9876543210")
    assert find_teacher(name, alias, tmp_path / "to", uri) == ""
    folder = checkpoint(tmp_path / "checkpoint", parts_of(teacher))
    with log_run(uri, "e", "teacher", params={}, tags={}, key="sweep/teacher") as run:
        run.log_artifact(folder, "checkpoint")
    assert keep_teacher(name, alias, "e", "sweep/teacher", uri) == ""
    found = find_teacher(name, alias, tmp_path / "to", uri)
    assert read_info(found) == read_info(folder)
    assert find_teacher(name, model_alias("0123456789ab", "another split"), tmp_path / "to2", uri) == ""
    assert "has not reached the tracker" in keep_teacher(name, alias, "e", "nobody", uri)

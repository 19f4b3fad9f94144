"""A table against what is there: data, networks that rows need, teachers that were given; nothing is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmkd.checkpoint import save_model
from dmkd.data.datasets import load_dataset
from dmkd.data.lineage import lineage
from dmkd.errors import DataError, SweepError
from dmkd.models.embedder import build_network
from sweeps.options import Options
from sweeps.places import Places
from sweeps.record import Record
from sweeps.tables.plan import Asked, dry_run, find_networks, plan_table
from sweeps.tables.run import TableRun, named, own_checkpoint
from sweeps.tables.search import definition, with_teacher
from sweeps.teachers import keep_teacher
from tests.sweeps.scripts import tables
from tracking.published import load_published
from tracking.runs import log_run

TINY = ("student.backbone=timm/test_efficientnet", "student.weights=none", "student.dim=8", "student.resolution=32")


def asked(name: str, root: Path, dataset: str = "", **more: object) -> Asked:
    table = tables()[name]
    chosen = table.dataset(dataset)
    given = (*TINY, *more.pop("set", ()))  # type: ignore[misc]
    options = Options(**({"data_root": str(root / chosen), "epochs": 1, "seeds": 2, "set": given} | more))  # type: ignore[arg-type]
    return Asked(table, chosen, options)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "out", f"sqlite:///{tmp_path}/mlflow.db")


def test_a_missing_teacher_stops_with_the_command_that_trains_it(miniatures: Path, places: Places) -> None:
    wanted = asked("raml_table2", miniatures, rows="raml/none/512/224")
    with pytest.raises(SweepError) as error:
        plan_table(wanted, places)
    assert "python -m sweeps.raml_table2 --dataset cub200 --with-teacher" in str(error.value)
    told = dry_run(asked("raml_table2", miniatures, rows="raml/none/512/224", no_probe=True), places)
    assert any("missing: network teacher/triplet/512/448" in line and "--with-teacher" in line for line in told)
    allowed = plan_table(asked("raml_table2", miniatures, rows="raml/none/512/224", with_teacher=True), places)
    assert [entry.label for entry in allowed.rows.needed] == ["teacher/triplet/512/448"]


def test_a_teacher_that_is_a_row_of_the_table_needs_no_permission(miniatures: Path, places: Places) -> None:
    planned = plan_table(asked("yu_table2", miniatures), places)
    assert planned.rows.needed
    assert {entry.id for entry in planned.rows.needed} <= {entry.id for entry in planned.rows.entries}
    assert planned.reports == ["test/recall_at_1"]
    assert planned.about.experiment == "sop/yu_table2"


def test_a_registered_teacher_is_found_and_another_splits_is_not(miniatures: Path, places: Places, tmp_path: Path) -> None:
    wanted = asked("raml_table2", miniatures, rows="raml/none/512/224", with_teacher=True)
    planned = plan_table(wanted, places)
    (teacher,) = planned.rows.needed
    trained = planned.trainable[teacher.id]
    net, folder = build_network(teacher.config.student), tmp_path / "checkpoint"
    save_model(net, folder, resolution=32, extra={"trained_on": lineage(trained.parts)})
    with log_run(places.tracking_uri, "e", "t", params={}, tags={}, key="s/t") as run:
        run.log_artifact(folder, "checkpoint")
    name, alias = named(trained)
    assert keep_teacher(name, alias, "e", "s/t", places.tracking_uri) == ""
    found = plan_table(asked("raml_table2", miniatures, rows="raml/none/512/224"), places).found
    assert set(found) == {teacher.id}
    assert own_checkpoint(places, "final", teacher) == ""
    other = asked("raml_table2", miniatures, rows="raml/none/512/224", set=("data.max_classes=4",), with_teacher=True)
    assert find_networks(other, plan_table(other, places).trainable, places) == {}
    held_out = asked("raml_table2", miniatures, set=("data.validation=0.34",)).options
    searched = definition(wanted.table, "cub200", held_out)
    with pytest.raises(
        SweepError, match=r"not trained without the validation classes yet: python -m sweeps.raml_table2 .*--search"
    ):
        with_teacher(searched, Options(), places, searched.command)


def test_a_teacher_that_has_seen_the_test_classes_is_refused_by_a_table(miniatures: Path, places: Places, tmp_path: Path) -> None:
    parts = plan_table(asked("s2sd_table1", miniatures), places)
    trained = next(iter(parts.trainable.values())).parts
    assert trained.test is not None
    seen = lineage(trained) | {"training_classes": lineage(_swapped(trained))["training_classes"]}
    entry = parts.rows.entries[0]
    save_model(build_network(entry.config.student), tmp_path / "t", resolution=32, extra={"trained_on": seen})
    wanted = asked("raml_table2", miniatures, rows="raml/none/512/224", set=(f"teacher.checkpoint={tmp_path / 't'}",))
    with pytest.raises(SweepError, match=r"was trained on 6 of the 6 test classes"):
        plan_table(wanted, places)


def _swapped(parts):  # type: ignore[no-untyped-def]
    import dataclasses

    return dataclasses.replace(parts, train=parts.test)


def test_data_that_are_not_there_stop_a_run_and_not_a_plan(places: Places, tmp_path: Path) -> None:
    wanted = asked("s2sd_table1", tmp_path)
    with pytest.raises(DataError, match="cub200"):
        plan_table(wanted, places)
    told = "\n".join(dry_run(wanted, places))
    assert "missing: data set cub200" in told
    assert f"dmkd prepare cub200 --root {tmp_path / 'cub200'}" in told
    assert "100 training classes of 5864 pictures" in told


def test_a_plan_with_the_data_there_is_measured_and_without_probing_reckoned(miniatures: Path, places: Places) -> None:
    typed = {"rows": "none/ms/128", "set": ("method.batches.size=4", "evaluation.nmi=false")}
    told = "\n".join(dry_run(asked("s2sd_table1", miniatures, **typed), places))  # type: ignore[arg-type]
    assert "measured on" in told
    assert "missing" not in told
    assert "6 training classes of 24 pictures" in told
    assert "reckoned" in "\n".join(dry_run(asked("s2sd_table1", miniatures, no_probe=True, **typed), places))  # type: ignore[arg-type]


def test_what_a_table_prints_is_measured(miniatures: Path) -> None:
    """Resolutions of Table 1 of RAML, the training classes of OBD-SD's Table 8, mP@10 of the landmark tables."""
    (teacher,) = asked("raml_table1", miniatures, rows="teacher/triplet/512/448").rows.entries
    evaluation = teacher.config.evaluation
    assert set(evaluation.query_resolutions) == set(evaluation.gallery_resolutions) == {634, 317, 224, 158, 112}
    density = asked("obdsd_table8", miniatures).rows.entries[0].config.evaluation
    assert density.train
    assert set(density.metrics) == {"embedding_density", "trimmed_spectral_decay"}
    landmarks = asked("aml_table2", miniatures).rows.entries[0]
    printed = load_published().filter(load_published()["key"].is_in(list(landmarks.keys)))["score"].drop_nulls()
    assert {score.split("/")[1].split("_")[0] for score in printed} == set(landmarks.config.evaluation.landmarks)


def test_the_pictures_of_a_table_and_of_what_it_needs_are_compared_on_every_node(
    miniatures: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node 2 answers with another copy: the sweep ends before anything is trained."""
    from sweeps.checks import nodes
    from tests.sweeps.checks.test_diagnosis import answer

    wanted = asked("raml_table2", miniatures, rows="raml/none/512/224", with_teacher=True)
    planned = plan_table(wanted, places)
    run = TableRun(planned, wanted.options, places, Record(places.folder / "sweep.json", "t-1", {}, 0), "")
    (name,) = run.data
    data, mark = run.data[name]
    assert mark == load_dataset(data).fingerprint
    heard = [answer("one", data={name: (mark, "")}), answer("two", data={name: ("feedfeedfeedfeed", "")})]
    monkeypatch.setattr(nodes, "live_nodes", lambda: [{}, {}])
    monkeypatch.setattr(nodes, "survey", lambda asked: heard)
    monkeypatch.setenv(nodes.ONE_MACHINE, "1")
    with pytest.raises(SweepError, match=rf"on node two.* has other pictures \(fingerprint feedfeedfeedfeed, here {mark}\)"):
        nodes.check_nodes(places, run.data)

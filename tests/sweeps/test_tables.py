"""What the scripts of the published tables come to, without running them: rows, networks that are needed, plans, costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dmkd.config import config_hash
from dmkd.errors import ConfigError, SweepError
from dmkd.space import flatten, override
from sweeps.options import Options
from sweeps.papers import recipe, recipes
from sweeps.tables import Line, Table
from sweeps.tables.costs import count
from sweeps.tables.entries import entries
from sweeps.tables.search import definition
from sweeps.tables.standing import not_comparable, rules
from tests.sweeps.scripts import SCRIPTS, run_script, tables
from tracking.published import load_published

FORMS = [(path, form) for path in SCRIPTS for form in ([], ["--search"]) if not form or "search=" in path.read_text()]


def test_every_script_plans_itself_without_data_teachers_or_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--dry-run` of all of them, in both forms: rows, runs, hours, disk, and what is missing with the command that makes it."""
    monkeypatch.delenv("DMKD_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    taught = 0
    for path, form in FORMS:
        status, told, errors = run_script(path, ["--dry-run", "--no-probe", *form])
        assert (status, errors) == (0, ""), (path.stem, form, errors)
        if path.stem in ("yu_table4", "aml_table4"):
            assert "nothing is trained" in told
            continue
        for wanted in ("epochs", "pictures", "GPU-hours each", "in all: ", " of checkpoints", "of states while training"):
            assert wanted in told, (path.stem, form, wanted)
        if path.stem not in ("quickstart", "signs_asymmetric", "signs_front"):  # their pictures are rendered where they run
            assert "missing: data set" in told, path.stem
            assert "dmkd prepare" in told, path.stem
        taught += "--with-teacher" in told
    assert taught > 10
    assert list(tmp_path.iterdir()) == []


def test_the_scripts_cover_every_printed_row() -> None:
    covered = {line.key for table in tables().values() for dataset in table.datasets for line in table.rows(dataset)}
    assert set(load_published().filter(load_published()["table"] != "text")["key"]) - covered == set()


def test_one_script_an_experiment_of_the_papers() -> None:
    named = {
        "yu": {*(f"table{number}" for number in range(1, 7)), "figure4"},
        "s2sd": {"table1", "table2", "figure2", "figure3"},
        "aml": {*(f"table{number}" for number in range(1, 6))},  # 6 is in 5; 7 and 8 in 2: the same trainings
        "raml": {"table1", "table2", "table3", "table4", "figure1", "figure3"},  # figure 4 is in figure 1
        "obdsd": {f"table{number}" for number in range(1, 10)},
    }
    assert {f"{paper}_{what}" for paper, names in named.items() for what in names} == set(tables())


def made(name: str, dataset: str = "", **options: object) -> list:
    table = tables()[name]
    return entries(table, table.dataset(dataset), Options(**options)).entries  # type: ignore[arg-type]


def test_a_row_is_trained_as_its_recipe_says() -> None:
    for entry in made("yu_table1", "cars196"):
        (key,) = entry.keys
        assert entry.config == recipe(key).final
        assert (entry.teacher.source if entry.teacher else "") == recipe(key).teacher


def test_rows_that_are_one_network_are_trained_once() -> None:
    """Two test sets and three tables of the asymmetric paper are one training each."""
    rows = made("aml_table2")
    keys = [key for entry in rows for key in entry.keys]
    assert len(keys) == len(set(keys)) == 3 * 68
    assert len(rows) == 34
    assert all({key.split("/")[2] for key in entry.keys} == {"roxford5k", "rparis6k"} for entry in rows)


def test_a_changed_row_has_no_printed_number_and_an_unchanged_one_has() -> None:
    figure = {entry.label: entry for entry in made("raml_figure3")}
    assert figure["8 views"].keys == ("raml/T2/cub200/raml/none/512/224",)
    assert [entry.keys for label, entry in figure.items() if label != "8 views"] == [()] * 4
    assert figure["1 view, absolute term alone"].config.method.label == "raml/abs"
    ablation = {entry.label: entry for entry in made("s2sd_figure3")}
    assert ablation["A: Dist., two stages"].teacher is not None
    assert ablation["A: Dist., two stages"].teacher.id == ablation["A: teacher, 2048 dimensions"].id
    assert len({entry.id for entry in ablation.values()}) == len(ablation) == 31


@pytest.mark.parametrize(("dataset", "weight"), [("cub200", 50.0), ("cars196", 50.0), ("sop", 5.0)])
def test_two_stage_distillation_is_weighted_as_dsd_is(dataset: str, weight: float) -> None:
    """Its kernel has the data set's gamma, and its base loss the half that Eq. 4 leaves it (`dmkd.distill.baselines`)."""
    figure = {entry.label: flatten(entry.config) for entry in made("s2sd_figure3", dataset)}
    shown = [figure["A: Dist., two stages"][f"method.{key}"] for key in ("name", "weight", "metric", "temperature")]
    assert shown == ["two_stage", weight, 0.5, 1.0]
    assert figure["A: DSD"]["method.weight"] == weight


def test_a_figure_on_validation_classes_holds_them_out_of_the_teacher_too() -> None:
    rows = made("yu_figure4")
    assert {entry.config.data.validation for entry in rows} == {0.2}
    assert {entry.teacher.config.data.validation for entry in rows} == {0.2}
    assert not any(entry.config.evaluation.test or entry.keys for entry in rows)


def test_the_command_line_reaches_every_row_that_has_the_key_and_their_teachers() -> None:
    typed = ("student.resolution=64", "method.relative=0.5", "data.max_classes=5")
    rows = made("yu_table1", set=typed, epochs=2, data_root="/somewhere", rows="yu_???/triplet*")
    assert len(rows) == 2
    for entry in rows:
        flat, teacher = flatten(entry.config), flatten(entry.teacher.config)
        for known in (flat, teacher):
            shown = [known[key] for key in ("student.resolution", "data.max_classes", "optim.epochs", "data.root")]
            assert shown == [64, 5, 2, "/somewhere"]
        assert flat["method.relative"] == 0.5
        assert "method.relative" not in teacher
    with pytest.raises(ConfigError, match=r"metod.relative|did you mean"):
        made("yu_table1", set=("metod.relative=0.5",))
    with pytest.raises(SweepError, match=r"--rows 'nothing': no row fits; there are none/triplet/512, pkt"):
        made("yu_table1", rows="nothing")
    with pytest.raises(SweepError, match=r"--dataset 'cub': did you mean 'cub200'"):
        made("yu_table1", "cub")


def test_a_given_teacher_takes_the_place_of_all() -> None:
    rows = made("raml_table2", set=("teacher.checkpoint=/given",), rows="raml/none*")
    assert [entry.needs for entry in rows] == [{}] * 3
    assert {entry.config.teacher.checkpoint for entry in rows} == {"/given"}


def test_the_identity_of_a_row_knows_its_teacher_but_not_where_it_lies() -> None:
    row = made("raml_table2", rows="raml/none/512/224")[0]
    moved = dataclasses.replace(row, config=override(row.config, {"data.root": "/elsewhere", "seed": 5}))
    assert moved.id == row.id
    other = made("raml_table2", rows="raml/none/512/224", set=("optim.lr=1e-3",))[0]
    assert other.id != row.id
    assert dataclasses.replace(row, teacher=other.teacher).id != row.id
    places = {row.teacher.id: "/a"}
    assert row.values(places)["teacher"].checkpoint == "/a"
    assert row.values(places)["student"].checkpoint == "teacher"


def test_what_differs_from_the_paper_is_said() -> None:
    row = made("s2sd_table1", rows="msdf/ms*")[0]
    assert not_comparable(row, None) == ""
    assert rules(row)[0] == "the best epoch on the test classes, for each metric by itself"
    assert rules(row)[1].startswith("the last epoch")
    small = made("s2sd_table1", rows="msdf/ms*", epochs=1, set=("student.dim=8", "optim.precision=bf16", "evaluation.nmi=false"))[
        0
    ]
    assert not_comparable(small, None) == "student.dim=8 (128); optim.epochs=1 (150)"


def test_a_search_starts_from_the_printed_setting_and_its_range_holds_it() -> None:
    from sweeps.space import Searched

    printed = {config_hash(made.config) for made in recipes().values() if made.config}
    for name, table in tables().items():
        for dataset in table.datasets if table.search else ():
            stated = definition(table, dataset, Options())
            searched = Searched(stated.base, stated.space)
            assert searched.space, name
            assert stated.base.data.validation > 0
            assert not stated.base.evaluation.test
            assert (stated.teacher is None) == (stated.base.method.teacher != "pretrained"), name
            tags = stated.row_tags["trial 0"]
            assert "{" not in tags["dmkd.published"], name
            assert tags["dmkd.not_comparable"] == "", name
            assert config_hash(stated.base) in printed, name


def test_the_counted_costs_stand_beside_the_printed_ones() -> None:
    """MobileNetV2 with its 1x1 projection to 512: 2.22 M + 1280 x 512, and 2 x 0.9 GFLOPs at 362 px."""
    cost = count("aml/T4/flops/aml_student/-/512/mobilenetv2")
    assert cost.printed == {"gflops": 1.94, "params_m": 2.88}
    assert cost.counted["params_m"] == pytest.approx(2.2239 + 1280 * 512 / 1e6, abs=0.005)
    assert cost.counted["gflops"] == pytest.approx(1.94, rel=0.07)
    assert cost.counted["params_pct_of_vgg16"] == pytest.approx(19.58, abs=0.1)
    assert count("aml/T3/flops/plfp_pruning/-/-").counted == {}


def test_a_line_writes_out_its_pattern_in_the_order_of_the_paper() -> None:
    table = Table("x", "", ("s2sd/T1/{dataset}/*/ms/128", Line("yu2019/T2/sop/yu_abs/triplet/512", label="mine")), ("sop",))
    names = [line.name for line in table.rows("sop")]
    assert names == ["none/ms/128", "dsd/ms/128", "msd/ms/128", "msdf/ms/128", "msdfa/ms/128", "mine"]
    with pytest.raises(SweepError, match="no published row fits"):
        dataclasses.replace(table, lines=("s2sd/T9/*",)).rows("sop")


def test_the_untrained_backbones_stand_beside_the_rows() -> None:
    """One of each network and resolution, its pooled features as they are, measured once, with no printed number."""
    table = tables()["raml_table2"]
    bare = entries(table, "cub200", Options()).untrained
    sizes = [f"untrained resnet50 at {size}" for size in (448, 317, 224, 158)]
    starts = [f"untrained, the teacher at {size}" for size in (317, 224, 158)]
    assert [entry.label for entry in bare] == [*sizes, *starts]
    for entry in bare[: len(sizes)]:
        config = entry.config
        assert (config.optim.epochs, config.student.dim, config.student.checkpoint, config.evaluation.test) == (0, 0, "", True)
        assert (entry.keys, entry.needs, entry.reference) == ((), {}, "untrained")
    assert entries(tables()["yu_figure4"], "cub200", Options()).untrained == []


def test_a_student_that_starts_from_its_teacher_is_held_against_that_teacher_as_it_is() -> None:
    """Its network before the first step, in its own search and in the teacher's gallery, beside the bare backbone."""
    made = entries(tables()["raml_table2"], "cub200", Options(rows="raml/none/512/224"))
    student, untrained = made.entries[0], made.untrained
    bare, start = untrained
    assert [entry.label for entry in untrained] == ["untrained resnet50 at 224", "untrained, the teacher at 224"]
    assert (bare.needs, bare.config.student.checkpoint) == ({}, "")
    assert start.config == override(student.config, {"optim.epochs": 0})
    assert (start.config.student.checkpoint, start.config.method.gallery) == ("teacher", "teacher")
    assert start.needs == student.needs
    assert (start.keys, start.reference) == ((), "untrained")


def test_a_student_with_a_new_layer_is_held_against_its_first_guess_once_a_teacher() -> None:
    """Rows of the five objectives start from one network; with another teacher or dimension it is another."""
    untrained = entries(tables()["aml_table1"], "sfm120k", Options()).untrained
    bare, start = untrained
    assert [entry.label for entry in untrained] == [
        "untrained mobilenet_v2 at 362",
        "untrained, mobilenet_v2 with a new layer of 512 at 362",
    ]
    assert (start.config.optim.epochs, start.config.student.dim, start.config.method.gallery) == (0, 512, "teacher")
    assert (bare.needs, list(start.needs), start.reference) == ({}, ["teacher"], "untrained")
    starts = [entry for entry in entries(tables()["aml_table2"], "sfm120k", Options()).untrained if entry.needs]
    assert len(starts) == len({entry.label for entry in starts}) == 4


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--sampler", "random"], "--sampler is of the search form: add --search"),
        (["--hours", "3"], "--hours is of the search form"),
        (["--objective", "val/map"], "--objective is of the search form"),
        (["--search", "--rows", "none*"], "--rows picks rows of the table: leave out --search"),
        (["--search", "--objective", "test/map"], "a search that looks at test classes makes their score worthless"),
        (["--dataset", "cars"], "--dataset 'cars': did you mean 'cars196'"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(typed: list[str], message: str) -> None:
    status, out, errors = run_script(SCRIPTS[0].parent / "yu_table1.py", [*typed, "--dry-run"])
    assert (status, out) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1

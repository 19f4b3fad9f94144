"""What a user types: output, exit status, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dmkd.cli import main
from dmkd.commands.train import published_config
from dmkd.config import load
from dmkd.distill import METHODS
from tests.pictures import make_folder

ROOT = Path(__file__).parents[1]


def dmkd(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DMKD_", "MLFLOW_"))}
    environment |= {"OMP_NUM_THREADS": "1", "DMKD_STATE": str((cwd or ROOT) / "state"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dmkd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd or ROOT, env=environment, check=False)


Typed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """`dmkd` in this process: a new one spends most of its time on imports. What it prints, whoever prints it, is caught."""

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        for key in [key for key in os.environ if key.startswith(("DMKD_", "MLFLOW_"))]:
            monkeypatch.delenv(key)
        monkeypatch.setenv("DMKD_STATE", str(cwd / "state"))
        monkeypatch.chdir(cwd)
        capfd.readouterr()
        try:
            main(list(arguments))
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        told = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, status, told.out, told.err)

    return run


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("dmkd: ")
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `dmkd train` ran for two epochs on real pictures."""
    folder = tmp_path_factory.mktemp("cli")
    make_folder(folder / "signs", classes=12, size=48)
    (folder / "trial.yaml").write_text(
        "data: {name: folder, root: signs, validation: 0.4}\n"
        "student: {backbone: resnet18, weights: none, dim: 16, resolution: 32, frozen_batchnorm: false}\n"
        "method: {name: metric_learning, batches: {size: 6}}\n"
        "optim: {epochs: 1, lr: 1e-3}\n"
    )
    done = dmkd("train", "trial.yaml", "--out", "out", "--set", "optim.epochs=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stdout
    return folder


def test_methods_and_data_sets_are_listed(typed: Typed) -> None:
    methods = {row["name"]: row for row in json.loads(dmkd("methods", "--json").stdout)}
    assert methods["msdf"]["preset_of"] == "s2sd"
    assert methods["msdf"]["parameters"]["temperature"] == {"default": 1.0, "range": "[0.2, 2]"}
    assert {"signs", "cars196", "folder", "manifest"} <= {
        row["name"] for row in json.loads(typed("datasets", "--json", cwd=ROOT).stdout)
    }
    lines = typed("methods", cwd=ROOT).stdout
    assert [line.split()[0] for line in lines.splitlines() if line[:1].isalpha()] == list(METHODS)
    section = typed("methods", "msdf", cwd=ROOT).stdout
    assert "preset of `s2sd`" in section
    assert "| `temperature` | 1 | [0.2, 2] |" in section
    assert "did you mean 's2sd'" in refused(typed("methods", "s2ds", cwd=ROOT))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tran"], "unknown command 'tran': did you mean 'train'?"),
        (["train"], "wanted one of CONFIG.yaml and --published KEY"),
        (["train", "a.yaml", "--resum"], "unknown argument '--resum': did you mean '--resume'?"),
        (["evaluate", "--checkpoint", "x", "--split", "all"], "argument --split: invalid choice: 'all'"),
        ([], "the following arguments are required: COMMAND"),
        (["published", "--paper", "s2s"], "no row has 's2s': did you mean 's2sd'?"),
    ],
)
def test_usage_errors_are_one_line_with_status_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    lines = capsys.readouterr().err.strip().splitlines()
    assert (ended.value.code, len(lines)) == (2, 1)
    assert message in lines[0]


def test_rows_of_the_papers_are_listed_with_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    main(["published", "--paper", "s2sd", "--table", "T1", "--dataset", "cars196"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15
    assert "s2sd/T1/cars196/msdf/ms/128  recall_at_1 85.69+-0.19  nmi 72.77+-0.13" in lines
    main(["published", "--json", "--paper", "obdsd", "--table", "text"])
    (first, *_) = json.loads(capsys.readouterr().out)
    assert not first["trainable"]
    assert first["reason"].startswith("a claim in the prose")
    main(["published", "raml/T2/cub200/raml/none/512/224"])
    text = capsys.readouterr().out
    assert "student.resolution = 224" not in text  # dmkd's own default
    assert "teacher: raml/T2/cub200/teacher/triplet/512/448" in text


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("obdsd/T8/cub200/none/ms/128", {"train": True, "metrics": ("embedding_density", "trimmed_spectral_decay")}),
        ("raml/T2/cub200/teacher/triplet/512/448", {"query_resolutions": (317, 224, 158), "gallery_resolutions": (448,)}),
    ],
)
def test_a_published_row_is_tested_as_its_table_tests_it(
    key: str, wanted: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the numbers beside which it is to stand would not be measured."""
    config, _ = published_config(key, {})
    assert {name: getattr(config.evaluation, name) for name in wanted} == wanted
    main(["published", key])
    shown = capsys.readouterr().out
    assert all(f"evaluation.{name} = {value}" in shown for name, value in wanted.items())


def test_a_published_row_trains_on_what_is_in_the_data_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yu's relative teacher on CUB, with everything small that the row leaves open to --set."""
    monkeypatch.chdir(trained)
    monkeypatch.setenv("DMKD_DATA", str(trained))
    (trained / "cub200").symlink_to(trained / "signs")
    small = ["student.backbone=resnet18", "student.weights=none", "student.dim=16", "student.resolution=32", "optim.epochs=1"]
    small += ["method.batches.size=8", "method.batches.images_per_class=2", "data.name=folder"]
    changes = [word for change in small for word in ("--set", change)]
    row = ["train", "--published", "yu2019/T1/cub200/yu_rel/triplet/512", *changes, "--out", "published"]
    with pytest.raises(SystemExit):
        main(row)
    main([*row, "--teacher", "out/checkpoint"])
    config = load(trained / "published/checkpoint/config.yaml")
    assert (config.method.name, config.loss.name, config.data.validation) == ("yu", "triplet", 0.0)
    assert "test/recall_at_1" in json.loads((trained / "published/metrics.jsonl").read_text().splitlines()[-1])


def test_the_trained_checkpoint_is_measured_again(trained: Path, typed: Typed) -> None:
    best = max(
        (json.loads(line) for line in (trained / "out/metrics.jsonl").read_text().splitlines()),
        key=lambda row: (row["val/recall_at_1"], -row["epoch"]),
    )
    done = typed("evaluate", "--checkpoint", "out/checkpoint", "--split", "val", "--json", cwd=trained)
    assert json.loads(done.stdout)["val/recall_at_1"] == best["val/recall_at_1"]
    matrix = typed("evaluate", "--checkpoint", "out/checkpoint", "--query-resolution", "32", "48", "--json", cwd=trained)
    assert {"test_q32_g32/recall_at_1", "test_q48_g32/map"} <= set(json.loads(matrix.stdout))


def test_a_finished_training_resumes_to_nothing_more(trained: Path) -> None:
    before = (trained / "out/metrics.jsonl").read_text()
    done = dmkd("train", "trial.yaml", "--out", "out", "--set", "optim.epochs=2", "--resume", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert (trained / "out/metrics.jsonl").read_text() == before


def test_prepare_names_what_is_broken_and_deletes_nothing(tmp_path: Path, typed: Typed) -> None:
    make_folder(tmp_path / "signs", classes=4, size=32)
    assert typed("prepare", "folder", "--root", "signs", cwd=tmp_path).returncode == 0
    broken = tmp_path / "signs/class_001/broken.png"
    broken.write_bytes(b"\x89PNG\r\n")
    done = typed("prepare", "folder", "--root", "signs", cwd=tmp_path)
    assert done.returncode == 1
    assert "broken.png" in done.stdout
    assert broken.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set", "optim.learning_rate=1"], "unknown key 'optim.learning_rate'"),
        (["--set", "optim.lr=fast"], "optim.lr: found 'fast' (str), wanted float"),
        (["--set", "optim.lr=-1"], "optim.lr: found -1.0, wanted > 0"),
        (["--set", "method.name=s2ds"], "method.name: unknown 's2ds': did you mean 's2sd'?"),
        (["--set", "data.root=nowhere"], "nowhere"),
        (["--set", "student.backbone=resnet19"], "unknown backbone 'resnet19'"),
        (["--set", "student.weights=none.safetensors"], "none.safetensors"),
        (["--set", "method.name=yu", "--set", "method.batches.images_per_class=2"], "teacher.checkpoint is empty"),
        (["--set", "method.batches.size=1000", "--set", "method.batches.replacement=false"], "method.batches.size"),
        (["--resume", "--out", "elsewhere"], "nothing to resume from"),
        (["--set", "optim.lr=[1"], "the value is no YAML"),
        (["--set", "seed=99999999999"], "seed: found 99999999999, wanted >= 0 and <="),
        (["--set", "data.protocol=strict"], "names no groups: give a manifest with a column 'group'"),
    ],
)
def test_mistakes_are_one_clear_line(trained: Path, changes: list[str], message: str, typed: Typed) -> None:
    assert message in refused(typed("train", "trial.yaml", "--out", "refused", *changes, cwd=trained))
    assert not (trained / "refused/state").exists()


def test_missing_weights_offline_are_one_clear_line(trained: Path, typed: Typed) -> None:
    """torchvision's weights are on the network; where there is none, the message names the ways out."""
    line = refused(typed("train", "trial.yaml", "--out", "refused", "--set", "student.weights=imagenet", cwd=trained))
    assert "resnet18" in line
    assert "weights" in line


def test_a_broken_picture_is_named(trained: Path, tmp_path: Path, typed: Typed) -> None:
    make_folder(tmp_path / "signs", classes=12, size=32)
    for path in (tmp_path / "signs").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    line = refused(typed("train", str(trained / "trial.yaml"), "--out", "refused", cwd=tmp_path))
    assert ".png" in line


def test_a_class_with_one_image_is_refused_where_pairs_are_wanted_without_replacement(
    trained: Path, tmp_path: Path, typed: Typed
) -> None:
    make_folder(tmp_path / "signs", classes=12, size=32)
    for folder in (tmp_path / "signs").iterdir():
        sorted(folder.iterdir())[0].unlink()
    changes = ["--set", "method.batches.replacement=false"]
    assert "class" in refused(typed("train", str(trained / "trial.yaml"), "--out", "refused", *changes, cwd=tmp_path))


def test_an_unwritable_output_is_one_clear_line(trained: Path, tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "file").write_text("")
    line = refused(typed("train", "trial.yaml", "--out", str(tmp_path / "file" / "out"), cwd=trained))
    assert str(tmp_path / "file") in line
    tmp_path.chmod(stat.S_IRWXU)


def test_no_runs_and_no_reference_are_one_clear_line(tmp_path: Path, typed: Typed) -> None:
    assert "no runs" in refused(typed("leaderboard", cwd=tmp_path))
    assert "no such file" in refused(typed("pull", "not-a-row", "--to", "here", cwd=tmp_path))
    assert not (tmp_path / "here").exists()


def test_what_a_measurement_cannot_change_is_refused(trained: Path, typed: Typed) -> None:
    asked = ["evaluate", "--checkpoint", "out/checkpoint"]
    assert "wanted >= 16" in refused(typed(*asked, "--query-resolution", "5", cwd=trained))
    assert "only data.* and evaluation.*" in refused(typed(*asked, "--set", "student.resolution=64", cwd=trained))
    assert "data.root is empty" in refused(typed(*asked, "--dataset", "cars196", cwd=trained))


def test_an_altered_checkpoint_is_refused(trained: Path, tmp_path: Path, typed: Typed) -> None:
    import shutil

    shutil.copytree(trained / "out/checkpoint", tmp_path / "checkpoint")
    weights = tmp_path / "checkpoint/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "weights.safetensors" in refused(typed("evaluate", "--checkpoint", str(tmp_path / "checkpoint"), cwd=trained))


def test_pictures_of_the_fixture_are_real(trained: Path) -> None:
    with Image.open(next((trained / "signs").rglob("*.png"))) as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 16) or []) > 8


def test_a_checkpoint_that_is_no_folder_is_named(tmp_path: Path, typed: Typed) -> None:
    line = refused(typed("evaluate", "--checkpoint", "nowhere", cwd=tmp_path))
    assert line.startswith("dmkd: 'nowhere' is no folder here, and as a leaderboard row: no runs yet")

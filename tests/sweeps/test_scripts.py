"""The scripts that a user starts: their numbers are the papers', and their mistakes one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from dmkd.data.batches import Batches
from dmkd.distill.s2sd import S2SD
from dmkd.losses import MultiSimilarity
from dmkd.space import override
from sweeps import cars_s2sd, quickstart
from sweeps.space import Searched
from sweeps.study import enqueue

SCRIPTS = sorted(path for path in Path(cars_s2sd.__file__).parent.glob("*.py") if path.read_text().startswith("#!"))


def test_trial_zero_of_cars_s2sd_is_the_published_setting_to_the_number():
    base = cars_s2sd.BASE
    assert (base.student.backbone, base.student.dim, base.student.resolution) == ("resnet50", 128, 224)
    assert base.student.weights == "imagenet"
    assert base.student.frozen_batchnorm
    loss = base.loss
    assert isinstance(loss, MultiSimilarity)
    assert (loss.alpha, loss.beta, loss.base, loss.epsilon) == (2, 40, 0.5, 0.1)
    method = base.method
    assert isinstance(method, S2SD)
    assert method.label == "s2sd/msdf"
    assert method.dims == (512, 1024, 1536, 2048)
    assert (method.weight, method.feature_weight, method.temperature, method.feature_delay) == (50, 50, 1, 1000)
    assert method.features
    assert not method.pool_aggregation
    assert not method.diffusion.enabled
    assert method.form == "released"
    assert method.batches == Batches(kind="classes", size=112, images_per_class=2, replacement=True)
    assert (method.views.per_image, method.views.augmentation, method.views.mixup) == (1, "crop_flip", 0)
    optim = base.optim
    assert (optim.optimizer, optim.lr, optim.head_lr, optim.weight_decay) == ("adam", 1e-5, 0, 4e-4)
    assert (optim.epochs, optim.schedule, optim.clip, optim.accumulate) == (150, "constant", 0, 1)
    assert base.data.name == "cars196"
    assert base.data.crop_ratio == 0.875


def test_the_heads_of_cars_s2sd_have_no_weight_decay():
    from dmkd.distill.base import Shapes

    objective = cars_s2sd.BASE.method.build(Shapes(128, 2048, classes=98), lambda dim: cars_s2sd.BASE.loss.build(dim, 98))
    groups = objective.parameter_groups(1e-5)
    assert [group["weight_decay"] for group in groups] == [0.0]
    assert sum(len(list(group["params"])) for group in groups) == 4 * 4  # four heads of two layers, weight and bias


def test_the_four_axes_of_cars_s2sd_in_an_optuna_trial():
    searched, study = (
        Searched(cars_s2sd.BASE, cars_s2sd.SPACE),
        optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)),
    )
    enqueue(study, searched, [])
    trials = [(study.ask(), None) for _ in range(30)]
    values = [searched.propose(trial) for trial, _ in trials]
    assert override(cars_s2sd.BASE, values[0]) == cars_s2sd.BASE
    frozen = [trial for trial in study.trials if trial.params["method.diffusion.enabled"]]
    assert 5 < len(frozen) < 25
    for trial in study.trials:
        assert 0.2 <= trial.params["method.temperature"] <= 2
        assert trial.params["method.weight"] > 0
        assert trial.params["student.resolution"] in (112, 160, 224)
        assert ("method.diffusion.omega" in trial.params) == trial.params["method.diffusion.enabled"]
        assert 0 < trial.params.get("method.diffusion.omega", 0.5) < 1
    ends = study.trials[1].distributions["method.temperature"]
    assert isinstance(ends, optuna.distributions.FloatDistribution)
    assert (ends.low, ends.high) == (0.2, 2)


def test_the_quickstart_compares_two_methods_of_the_same_student():
    searched = Searched(quickstart.BASE, quickstart.SPACE)
    for point in quickstart.POINTS:
        searched.check(point)
    tried = [override(quickstart.BASE, point) for point in [{}, *quickstart.POINTS]]
    assert sorted((config.method.label, config.student.checkpoint) for config in tried) == [
        ("metric_learning", ""),
        ("yu/absolute", ""),
        ("yu/absolute", "teacher"),
        ("yu/relative", ""),
    ]
    assert {config.student.backbone for config in tried} == {quickstart.TEACHER.student.backbone}
    assert quickstart.TEACHER.student.resolution == 2 * quickstart.BASE.student.resolution
    assert quickstart.TEACHER.data == quickstart.BASE.data


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_executable_and_documented(script):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env python"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert all(word in text.split('"""')[1] for word in ("Cost:", f"python sweeps/{script.name}"))
    assert "sys.path.insert(0, str(Path(__file__).resolve().parent.parent))" in text


def run(arguments, folder, **environment):
    """The script from a foreign folder, with no package path, as a job would start it."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DMKD_DATA", "RAY_ADDRESS")}
    command = [sys.executable, str(Path(cars_s2sd.__file__)), *arguments]
    return subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "$DMKD_DATA is not set"),
        (["--set", "method.wieght=3"], "method.wieght"),
        (["--set", "method.temperature=-1"], "method.temperature: found -1"),
        (["--objective", "test/recall_at_1"], "the final stage reports test/..."),
    ],
)
def test_a_mistake_at_the_command_line_is_one_line_and_status_2(tmp_path, arguments, message):
    done = run(arguments, tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("cars_s2sd: ")
    assert message in lines[0]

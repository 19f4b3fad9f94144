"""The method itself is searched, each with its own ranges: on a real study on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dmkd.config import Config
from dmkd.distill.metric_learning import MetricLearning
from dmkd.distill.obd_sd import ObdSd
from dmkd.distill.s2sd import S2SD
from dmkd.errors import ConfigError, SweepError
from dmkd.space import Choice, Range, override, search_space
from sweeps.space import Searched
from sweeps.study import check_sampler, enqueue, open_study
from sweeps.variants import variants

METHODS = (S2SD(weight=50.0), ObdSd(), MetricLearning())
SPACE = variants("method", METHODS) | {"optim.lr": Range(1e-6, 1e-3, log=True)}
BASE = Config(method=METHODS[0])


def test_every_option_brings_its_own_ranges():
    assert SPACE["method.weight@0"] == dataclasses.replace(search_space(S2SD())["weight"], when=("method", METHODS[0]))
    weight = SPACE["method.weight@1"]
    assert isinstance(weight, Range)
    assert (weight.low, weight.high, weight.when) == (10, 2000, ("method", METHODS[1]))
    assert not any(key.endswith("@2") for key in SPACE)
    omega = SPACE["method.diffusion.omega@0"]
    assert omega.when in (("method.diffusion.enabled@0", True), None) or "method.diffusion.omega@0" not in SPACE


def test_proposals_are_of_one_method_with_its_own_keys_and_come_back_from_the_study(tmp_path: Path):
    searched, study = Searched(BASE, SPACE), open_study(tmp_path, "s", "tpe", seed=1)
    enqueue(study, searched, [searched.completed({"method": METHODS[2]})])
    seen = set()
    for number in range(40):
        trial = study.ask()
        values = searched.propose(trial)
        config = override(BASE, values)
        seen.add(config.method.name)
        if number == 0:
            assert config == BASE
        if number == 1:
            assert config == override(BASE, {"method": METHODS[2]})
        weights = [name for name in trial.params if name.startswith("method.weight")]
        assert weights == {"s2sd": ["method.weight@0"], "obd_sd": ["method.weight@1"]}.get(config.method.name, [])
        if weights:
            assert config.method.weight == trial.params[weights[0]]
        study.tell(trial, number % 7 / 7)
        again = open_study(tmp_path, "s").trials[number]
        assert override(BASE, searched.decoded(again)) == config
        assert searched.encoded(searched.decoded(again)) == again.params
    assert seen == {"s2sd", "obd_sd", "metric_learning"}


def test_a_known_point_of_another_method_takes_that_methods_own_values():
    searched = Searched(BASE, SPACE)
    point = searched.completed({"method": METHODS[1], "method.weight": 700.0})
    assert override(BASE, point).method == dataclasses.replace(METHODS[1], weight=700.0)
    with pytest.raises(ConfigError, match="outside what is searched"):
        searched.check({"method": METHODS[1], "method.weight": 5000.0})


def test_only_named_fields_and_what_their_conditions_leave():
    space = variants("method", METHODS, keep=("weight", "diffusion.omega"))
    # OBD-SD diffuses as it stands, S2SD does not: its omega has nothing to act on.
    assert set(space) == {"method", "method.weight@0", "method.weight@1", "method.diffusion.omega@1"}
    assert space["method.diffusion.omega@1"].when == ("method", METHODS[1])


def test_samplers_that_cannot_serve_a_conditional_space_are_refused():
    searched = Searched(BASE, SPACE)
    with pytest.raises(SweepError, match="conditional"):
        searched.grid(0)
    with pytest.raises(SweepError, match="conditional"):
        check_sampler("cmaes", searched, 1)
    plain = Searched(BASE, {"optim.lr": Range(1e-6, 1e-3), "student.dim": Choice((64, 128))})
    with pytest.raises(SweepError, match="several objectives"):
        check_sampler("cmaes", plain, 2)
    for name in ("tpe", "gp", "random", "qmc"):
        check_sampler(name, searched, 2)

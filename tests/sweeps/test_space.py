from __future__ import annotations

import optuna
import pytest

from dmkd.config import Config
from dmkd.distill.metric_learning import MetricLearning
from dmkd.distill.s2sd import S2SD
from dmkd.distill.yu import Yu
from dmkd.errors import ConfigError, SweepError
from dmkd.space import Choice, Range, override
from sweeps.space import Searched

BASE = Config(method=S2SD(weight=50))
SPACE = {
    "method.diffusion.omega": Range(0.1, 0.9, when=("method.diffusion.enabled", True)),
    "method.diffusion.enabled": Choice((False, True)),
    "method.weight": Range(1, 1000, log=True),
    "student.resolution": Choice((112, 224)),
    "student.dim": Range(64, 256),
}


def test_trial_zero_is_the_base_to_the_number():
    searched = Searched(BASE, SPACE)
    values = searched.base_values()
    assert values == {"method.diffusion.enabled": False, "method.weight": 50, "student.resolution": 224, "student.dim": 128}
    assert override(BASE, values) == BASE


def test_proposals_fit_the_configuration_and_a_conditional_key_needs_its_parent():
    searched, study = Searched(BASE, SPACE), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        values = searched.propose(trial)
        config = override(BASE, values)
        assert ("method.diffusion.omega" in values) == config.method.diffusion.enabled
        # An int field is searched in whole numbers, a float field is not, though the script wrote 50.
        assert isinstance(values["student.dim"], int)
        assert isinstance(values["method.weight"], float)
        assert 1 <= values["method.weight"] <= 1000
        seen.add(config.method.diffusion.enabled)
        study.tell(trial, 0.0)
        assert searched.decoded(study.trials[-1]) == values
    assert seen == {False, True}


def test_whole_methods_can_be_searched_as_presets_or_as_instances():
    methods = (Yu(absolute=1.0, relative=0.0), Yu(), MetricLearning())
    searched = Searched(Config(method=methods[1]), {"method": Choice(methods)})
    assert searched.base_values() == {"method": methods[1]}
    assert searched.encoded({"method": methods[0]}) == {"method": "yu/absolute"}
    assert {point["method"].label for point in searched.grid(0)} == {"yu/absolute", "yu/relative", "metric_learning"}
    space = {"method.preset": Choice(("msdf", "dsd")), "method.temperature": Range(0.2, 2, when=("method.preset", "dsd"))}
    presets = Searched(Config(method=S2SD()), space)
    assert presets.base_values() == {"method.preset": "msdf"}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"method.wieght": Range(0, 1)}, "method.weight"),
        ({"method.weight": Range(60, 100)}, r"method.weight=50(\.0)? lies outside .*\[60, 100\]"),
        ({"student.resolution": Choice((112, 160))}, "student.resolution=224 lies outside"),
        ({"student.resolution": Choice((224, 5000))}, "5000"),
        ({"a": Range(0, 1, when=("b", 1)), "b": Range(0, 1, when=("a", 1))}, "conditions of each other"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space, message):
    with pytest.raises((ConfigError, SweepError), match=message):
        Searched(BASE, space)


def test_a_grid_is_every_combination_and_has_no_conditional_parts():
    space = {"student.resolution": Choice((112, 224)), "method.weight": Range(1, 10000, log=True), "student.dim": Range(127, 129)}
    points = Searched(BASE, space).grid(seed=3)
    assert len(points) == 2 * 5 * 3
    assert sorted({round(point["method.weight"], 6) for point in points}) == [1, 10, 100, 1000, 10000]
    assert {point["student.dim"] for point in points} == {127, 128, 129}
    with pytest.raises(SweepError, match=r"grid cannot serve conditional keys .method.diffusion.omega"):
        Searched(BASE, SPACE).grid(0)


def test_a_known_point_outside_the_space_is_refused():
    searched = Searched(BASE, SPACE)
    with pytest.raises(ConfigError, match=r"did you mean 'method.weight'"):
        searched.check({"method.weigth": 3})
    with pytest.raises(ConfigError, match=r"5000.* lies outside"):
        searched.check({"method.weight": 5000})

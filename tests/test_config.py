"""The configuration of a run: YAML in and out, command-line assignments, and its hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmkd import config as configs
from dmkd.config import Config
from dmkd.distill import METHODS, PRESETS
from dmkd.errors import ConfigError
from dmkd.losses import LOSSES
from dmkd.space import flatten, override


@pytest.mark.parametrize("method", [*METHODS, *PRESETS])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_yaml_round_trip_of_every_method_preset_and_loss(method: str, loss: str) -> None:
    key = "method.preset" if method in PRESETS else "method.name"
    config = override(Config(), {key: method, "loss.name": loss, "optim.lr": 1e-5})
    assert configs.from_yaml(configs.to_yaml(config)) == config


def test_yaml_reads_numbers_as_people_write_them() -> None:
    assert configs.from_yaml("optim: {lr: 1e-5}\nloss: {name: multi_similarity, epsilon: null}").optim.lr == 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lr: [}", "not readable as YAML"),
        ("seed: 1\nseed: 2", "key given twice: seed"),
        ("seed: -1", "seed: found -1, wanted >= 0"),
        ("optim: {learning_rate: 1}", "unknown key 'optim.learning_rate'"),
        ("!!python/object/apply:os.system ['true']", "not readable as YAML"),
    ],
)
def test_bad_yaml_is_refused_with_its_source(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        configs.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        configs.load(tmp_path / "none.yaml")


def test_assignments_are_yaml_values() -> None:
    parsed = configs.parse_assignments(["method.temperature=0.5", "optim.lr=1e-4", "loss.epsilon=null", "data.name=cars196"])
    assert parsed == {"method.temperature": 0.5, "optim.lr": 1e-4, "loss.epsilon": None, "data.name": "cars196"}
    with pytest.raises(ConfigError, match="wanted key=value"):
        configs.parse_assignments(["temperature"])


def test_the_hash_names_a_row_not_a_repetition() -> None:
    config = Config()
    same = override(config, {"seed": 3, "data.fold": 1, "data.root": "/elsewhere", "data.workers": 2})
    assert configs.config_hash(same) == configs.config_hash(config)
    for key, value in {"optim.lr": 2e-5, "student.dim": 64, "loss.alpha": 3, "method.views.min_scale": 0.2}.items():
        assert configs.config_hash(override(config, {key: value})) != configs.config_hash(config)


def test_every_flat_key_can_be_overridden_with_its_own_value() -> None:
    config = override(Config(), {"method.preset": "msdf"})
    assert override(config, flatten(config)) == config

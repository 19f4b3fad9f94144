"""One run's whole configuration: frozen, strict, and the same in Python, YAML, the tracker and the leaderboard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from dmkd import space
from dmkd.data import Data
from dmkd.distill import METHODS, PRESETS
from dmkd.distill.base import Method
from dmkd.distill.metric_learning import MetricLearning
from dmkd.errors import ConfigError
from dmkd.evaluation import Evaluation
from dmkd.losses import LOSSES, Loss, MultiSimilarity
from dmkd.losses import PRESETS as LOSS_PRESETS
from dmkd.models import Network, Teacher
from dmkd.optim import Optim
from dmkd.space import Limit, Variants


@dataclass(frozen=True)
class Config:
    """What one trial of the shared trainer does. Defaults are the papers' own; see each part."""

    data: Data = Data()
    student: Network = Network()
    teacher: Teacher = Teacher()
    loss: Annotated[Loss, Variants(LOSSES, LOSS_PRESETS)] = field(default_factory=MultiSimilarity)
    method: Annotated[Method, Variants(METHODS, PRESETS)] = field(default_factory=MetricLearning)
    optim: Optim = Optim()
    evaluation: Evaluation = Evaluation()
    seed: Annotated[int, Limit(minimum=0, maximum=2**32 - 1)] = 0


def from_dict(values: Mapping[str, Any]) -> Config:
    """A configuration from nested plain values. Raises `ConfigError` for an unknown key, a wrong type, a value out of limits."""
    return space.build(Config, values)


def to_yaml(config: Config) -> str:
    """The whole configuration, defaults included, as YAML that `from_yaml` reads back to an equal one."""
    return yaml.safe_dump(space.to_dict(config), sort_keys=False, allow_unicode=True)


def from_yaml(text: str, source: str = "config") -> Config:
    """Read YAML strictly. Raises `ConfigError` naming `source` where the text is no YAML, holds a key twice, or does not fit."""
    try:
        values = yaml.load(text, Loader=_StrictLoader)
        return from_dict(values if values is not None else {})
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: not readable as YAML: {' '.join(str(error).split())}") from None


def load(path: Path | str) -> Config:
    """Read a YAML file. Raises `ConfigError`, also where the file is missing."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file; `dmkd train --help` shows how one is made")
    try:
        return from_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["method.temperature=3", ...]` as overrides, values read as YAML ("3" is a number, "null" is None)."""
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {assignment!r}: wanted key=value, as in method.temperature=0.5")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise ConfigError(f"--set {assignment!r}: the value is no YAML; quote it, as in 'student.weights=\"a: b\"'") from None
        changes[key.strip()] = _number(value)
    return changes


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5 as a string; a user means the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


UNNAMED = {
    "data": ("fold", "workers", "root"),
    "evaluation": (
        *("landmark_root", "whitening_root"),
        # What is measured beside the rest changes no other number; the protocol's fingerprint tells the number of queries.
        *("metrics", "max_queries", "query_resolutions", "gallery_resolutions", "train"),
    ),
}
"""Keys that do not enter `config_hash`, by part."""


def config_hash(config: Config) -> str:
    """12 hexadecimal digits that name a configuration whatever its seed and fold: repetitions of one row share it."""
    plain = space.to_dict(config)
    plain.pop("seed")
    for part, keys in UNNAMED.items():
        for key in keys:
            plain[part].pop(key)
    plain["teacher"].pop("features")
    for part, key in (("student", "interpolation"), ("student", "head_init"), ("optim", "compile")):
        if not plain[part][key]:  # rows from before them keep their names
            plain[part].pop(key)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, and reads 1e-5 as the number it is."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if not all(isinstance(key, (str, int, float)) for key in keys):
        raise ConfigError(f"a key has to be a name (line {node.start_mark.line + 1})")
    twice = {str(key) for key in keys if keys.count(key) > 1}
    if twice:
        raise ConfigError(f"key given twice: {', '.join(sorted(twice))} (line {node.start_mark.line + 1})")
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


def _scalar(loader: _StrictLoader, node: yaml.ScalarNode) -> Any:
    return _number(loader.construct_scalar(node)) if node.style is None else loader.construct_scalar(node)


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
_StrictLoader.add_constructor("tag:yaml.org,2002:str", _scalar)

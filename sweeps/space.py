"""From a flat space of dotted keys to a proposal and back: Optuna suggests primitives, the configuration takes values."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import optuna

from dmkd.config import Config
from dmkd.errors import ConfigError, SweepError
from dmkd.space import Choice, Range, flatten, nearest, override

Values = dict[str, Any]
Space = Mapping[str, Range | Choice]

GRID_LEVELS = 5
"""Values that a grid takes from a continuous range."""


@dataclass(frozen=True)
class Searched:
    """A search space bound to the configuration that it varies.

    Raises `ConfigError` for a key that the configuration does not have, and for a base value outside its own range: trial 0 is
    the base itself, so the space has to hold it.
    """

    base: Config
    space: Space

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", _ordered(self.space))
        for key, entry in self.space.items():
            self._default(key)
            _check_entry(key, entry)
        self.check(self.base_values())

    def active(self, key: str, values: Values) -> bool:
        """Whether a conditional key is searched, given the values of the keys before it (by their names in the space)."""
        when = self.space[key].when
        if when is None:
            return True
        chosen = values[when[0]] if when[0] in values else None if when[0] in self.space else flatten(self.base).get(when[0])
        return bool(chosen == when[1])

    def named(self, values: Values) -> Values:
        """Values of the configuration under their names in the space: of `method.weight@0` and `method.weight@2` the one that is
        active beside them. What is not searched, or not beside these values, is left out."""
        found: Values = {}
        for key in self.space:
            if plain(key) in values and self.active(key, found):
                found[key] = values[plain(key)]
        return found

    def base_values(self) -> Values:
        """The base's own value of every key that is active in it: trial 0."""
        return self.completed({})

    def completed(self, point: Values) -> Values:
        """A known point with the base's own value for every active key that it does not name."""
        values: Values = {}
        for key in self.space:
            if self.active(key, values):
                values[key] = point[plain(key)] if plain(key) in point else self._base_value(key, values)
        return _plain(values)

    def propose(self, trial: optuna.trial.Trial) -> Values:
        """Ask `trial` for every active key, parents before their conditional children."""
        values: Values = {}
        for key, entry in self.space.items():
            if self.active(key, values):
                values[key] = _suggest(trial, key, entry, whole=self._whole(key))
        return _plain(values)

    def encoded(self, values: Values) -> dict[str, Any]:
        """Values as Optuna's parameters (an option that is no primitive stands under its label)."""
        found = self.named(values)
        return {key: _label(value) if isinstance(self.space[key], Choice) else value for key, value in found.items()}

    def decoded(self, trial: optuna.trial.FrozenTrial) -> Values:
        """The values that a finished trial stood for."""
        return _plain({key: self._options(key).get(value, value) for key, value in trial.params.items()})

    def _options(self, key: str) -> Values:
        entry = self.space[key]
        return {_label(option): option for option in entry.options} if isinstance(entry, Choice) else {}

    def check(self, values: Values) -> None:
        """Raise `ConfigError` where a known point names an unknown key, an inactive one, or a value outside its range."""
        for key in values:
            if key not in {plain(known) for known in self.space}:
                raise ConfigError(f"known point: {key!r} is not searched: {nearest(key, self.space)}")
        for key, value in self.named(values).items():
            if not _inside(value, self.space[key]):
                raise ConfigError(
                    f"{plain(key)}={_label(value)!r} lies outside what is searched, {_words(self.space[key])}: widen the space"
                )
        override(self.base, values)

    def grid(self, seed: int) -> list[Values]:
        """Every combination, shuffled by `seed`. Raises `SweepError` for a space with conditional parts."""
        conditional = [key for key, entry in self.space.items() if entry.when]
        if conditional:
            raise SweepError(
                f"--sampler grid cannot serve conditional keys ({', '.join(conditional)}): use tpe or random, or fix them"
            )
        levels = [_levels(entry, self._whole(key)) for key, entry in self.space.items()]
        points = [dict(zip(self.space, point, strict=True)) for point in product(*levels)]
        random.Random(seed).shuffle(points)
        return points

    def _base_value(self, key: str, values: Values) -> Any:
        """The base's value; beside an option that is not the base's own, that option's."""
        when = self.space[key].when
        own = override(self.base, {when[0]: when[1]}) if when is not None and dataclasses.is_dataclass(when[1]) else self.base
        flat = flatten(own)
        if plain(key) in flat:
            return flat[plain(key)]
        entry = self.space[key]
        for option in entry.options if isinstance(entry, Choice) else ():
            if override(self.base, {key: option}) == self.base:
                return option
        raise SweepError(
            f"{key}: the base configuration is none of {_words(entry)}, but trial 0 must be the base: add it to the options"
        )

    def _default(self, key: str) -> Any:
        """The value of `key` where its conditions hold. Raises `ConfigError` when the configuration has no such key."""
        entry, conditions, field = self.space[key], _plain(self._conditions(key)), plain(key)
        where = override(self.base, conditions)
        if isinstance(entry, Choice):
            for option in entry.options:
                override(where, {field: option})
            return entry.options[0]
        flat = flatten(where)
        if field not in flat:
            raise ConfigError(f"search space: unknown key {field!r}: {nearest(field, flat)}")
        # Set through `override`, a whole number that a script wrote into a float field becomes the float that it is.
        return flatten(override(where, {field: flat[field]}))[field]

    def _conditions(self, key: str) -> Values:
        when = self.space[key].when
        if when is None:
            return {}
        return (self._conditions(when[0]) if when[0] in self.space else {}) | {when[0]: when[1]}

    def _whole(self, key: str) -> bool:
        return isinstance(self._default(key), int)


def plain(key: str) -> str:
    """The configuration's key: `method.weight` of `method.weight@2` (see `dmkd.space.variants`)."""
    return key.partition("@")[0]


def _plain(values: Values) -> Values:
    return {plain(key): value for key, value in values.items()}


def _check_entry(key: str, entry: Range | Choice) -> None:
    """Raise `SweepError` for what would make rows incomparable, or options that could not be told apart."""
    if key == "seed" or key.startswith(("data.", "evaluation.")):
        raise SweepError(f"search space: {key} decides what is measured, not what is trained: set it for the whole sweep (--set)")
    labels = [_label(option) for option in entry.options] if isinstance(entry, Choice) else []
    twice = sorted({str(label) for label in labels if labels.count(label) > 1})
    if twice:
        raise SweepError(f"search space: {key} has several options called {', '.join(twice)}: search the field that differs")


def _ordered(space: Space) -> dict[str, Range | Choice]:
    """Parents before their conditional children; otherwise as given."""
    ordered: dict[str, Range | Choice] = {}
    waiting = dict(space)
    while waiting:
        ready = [key for key, entry in waiting.items() if entry.when is None or entry.when[0] not in waiting]
        if not ready:
            raise SweepError(f"search space: {', '.join(waiting)} are conditions of each other")
        ordered |= {key: waiting.pop(key) for key in ready}
    return ordered


def _suggest(trial: optuna.trial.Trial, key: str, entry: Range | Choice, whole: bool) -> Any:
    if isinstance(entry, Choice):
        labels = {_label(option): option for option in entry.options}
        return labels[trial.suggest_categorical(key, list(labels))]
    if whole:
        return trial.suggest_int(key, int(entry.low), int(entry.high), step=entry.step or 1, log=entry.log)
    return trial.suggest_float(key, entry.low, entry.high, log=entry.log)


def _label(option: Any) -> Any:
    """A primitive that stands for an option in Optuna: itself, or a method's label, or its text."""
    if option is None or isinstance(option, (bool, int, float, str)):
        return option
    return str(option.label if dataclasses.is_dataclass(option) and hasattr(option, "label") else option)


def _inside(value: Any, entry: Range | Choice) -> bool:
    if isinstance(entry, Choice):
        return value in entry.options
    return isinstance(value, (int, float)) and entry.low <= value <= entry.high


def _words(entry: Range | Choice) -> str:
    if isinstance(entry, Choice):
        return ", ".join(str(_label(option)) for option in entry.options)
    return f"[{entry.low:g}, {entry.high:g}]"


def _levels(entry: Range | Choice, whole: bool) -> list[Any]:
    if isinstance(entry, Choice):
        return list(entry.options)
    if whole and (entry.high - entry.low) / (entry.step or 1) < GRID_LEVELS:
        return list(range(int(entry.low), int(entry.high) + 1, entry.step or 1))
    shares = [level / (GRID_LEVELS - 1) for level in range(GRID_LEVELS)]
    between = [
        entry.low * (entry.high / entry.low) ** s if entry.log else entry.low + (entry.high - entry.low) * s for s in shares
    ]
    return sorted({round(value) for value in between}) if whole else between

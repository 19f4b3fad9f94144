"""Search ranges that stand beside what they search, and strict building of frozen configurations (standard library only).

A field of a frozen dataclass carries its paper's default and its range on one line:

    temperature: Annotated[float, Range(0.2, 2.0), Limit(above=0)] = 1.0

`search_space` walks a configuration and gives flat dotted keys (`method.temperature`), `override` sets them, `flatten` reads
them back. The same keys pass unchanged through the scheduler, the search library, the tracker and the leaderboard.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

from dmkd.errors import ConfigError, nearest
from dmkd.ranges import Choice, Limit, OneOf, Range, Variants

__all__ = [
    "Choice",
    "Limit",
    "OneOf",
    "Range",
    "Variants",
    "build",
    "flatten",
    "nearest",
    "override",
    "search_space",
    "to_dict",
]

T = TypeVar("T")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The plain type of an annotation and its extras."""
    if get_origin(hint) is typing.Annotated:
        plain, *extras = get_args(hint)
        return plain, tuple(extras)
    return hint, ()


def _fields(cls: type) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    hints = _hints(cls)
    return {field.name: _split(hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a nested dataclass under its dotted key; the variant of a field stands at `<field>.name`."""
    flat: dict[str, Any] = {}
    for name, (_, extras) in _fields(type(config)).items():
        value, key = getattr(config, name), f"{prefix}{name}"
        if dataclasses.is_dataclass(value):
            flat |= {f"{key}.{label}": variant for label, variant in _variant_name(value, extras).items()}
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _variant_name(value: Any, extras: tuple[Any, ...]) -> dict[str, str]:
    """`{"name": ...}` of a field that holds one of several dataclasses; nothing for any other."""
    return {"name": value.name} if any(isinstance(extra, Variants) for extra in extras) else {}


def to_dict(config: Any) -> dict[str, Any]:
    """A nested plain dictionary (tuples as lists) that `build` turns back into an equal configuration."""
    plain: dict[str, Any] = {}
    for name, (_, extras) in _fields(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            plain[name] = _variant_name(value, extras) | to_dict(value)
        else:
            plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def build(cls: type[T], values: Mapping[str, Any], *, base: T | None = None, path: str = "") -> T:
    """Build `cls` from nested plain values, strictly; what is not named comes from `base`, or from the defaults.

    Raises `ConfigError` for an unknown key (with the nearest known one), a wrong type, or a value outside its limits.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path.rstrip('.') or 'config'}: found {values!r}, wanted a mapping of {', '.join(_fields(cls))}")
    fields = _fields(cls)
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown key {path + str(key)!r}: {nearest(str(key), fields, path)}")
    given = {key: _value(value, *fields[key], getattr(base, key, _own(cls, key)), path + key) for key, value in values.items()}
    if base is not None:
        return dataclasses.replace(base, **given)  # type: ignore[type-var]
    return cls(**given)


def _own(cls: type, key: str) -> Any:
    """The default that `cls` gives a nested dataclass: what is not named in it comes from there; None for any other field."""
    default = next(field.default for field in dataclasses.fields(cls) if field.name == key)
    return default if dataclasses.is_dataclass(default) and not isinstance(default, type) else None


def _value(value: Any, hint: Any, extras: tuple[Any, ...], current: Any, path: str) -> Any:
    for extra in extras:
        if isinstance(extra, Variants):
            return _variant(value, extra, current, path)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        return build(hint, value, base=current, path=f"{path}.")  # type: ignore[arg-type]
    value = _typed(value, hint, path)
    for extra in extras:
        _check(value, extra, path)
    return value


def _variant(value: Any, variants: Variants, current: Any, path: str) -> Any:
    if isinstance(value, tuple(variants.classes.values())):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: found {value!r}, wanted a mapping with a 'name' out of {', '.join(sorted(variants.classes))}")
    rest = {key: item for key, item in value.items() if key not in ("name", "preset")}
    label = value.get("preset", value.get("name", getattr(current, "name", None)))
    _check_names(value, variants, path)
    if label is None and rest:
        raise ConfigError(f"{path}: found {', '.join(map(repr, rest))} and no 'name' or 'preset': say which {path} is meant")
    if not isinstance(label, str):
        raise ConfigError(f"{path}.name: found {label!r}, wanted a name out of {', '.join(sorted(variants.classes))}")
    if label in variants.presets and ("preset" in value or label not in variants.classes):
        preset = variants.presets[label]
        return build(type(preset), rest, base=preset, path=f"{path}.")
    if label not in variants.classes:
        known = nearest(label, [*variants.classes, *variants.presets])
        raise ConfigError(f"{path}.{'preset' if 'preset' in value else 'name'}: unknown {label!r}: {known}")
    cls = variants.classes[label]
    base = current if type(current) is cls else None
    return build(cls, rest, base=base, path=f"{path}.")


def _check_names(value: Mapping[str, Any], variants: Variants, path: str) -> None:
    """Raise `ConfigError` where a name and a preset are given that are not of one kind: one of them would be dropped."""
    if "name" in value and "preset" in value:
        kinds = [getattr(variants.presets.get(label, object), "name", label) for label in (value["name"], value["preset"])]
        if kinds[0] != kinds[1]:
            raise ConfigError(
                f"{path}: found name {value['name']!r} and preset {value['preset']!r}, which is of {kinds[1]!r}: give one of them"
            )


def _typed(value: Any, hint: Any, path: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        plain = [argument for argument in arguments if argument is not type(None)]
        return _typed(value, plain[0], path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: found {value!r}, wanted a list of {arguments[0].__name__}")
        return tuple(_typed(item, arguments[0], f"{path}[{position}]") for position, item in enumerate(value))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: found {value!r} ({type(value).__name__}), wanted {hint.__name__}")
    return value


def _check(value: Any, extra: Any, path: str) -> None:
    items = value if isinstance(value, tuple) else (value,)
    for item in items:
        if isinstance(extra, Limit) and item is not None and not extra.holds(item):
            raise ConfigError(f"{path}: found {item!r}, wanted {extra}")
        if isinstance(extra, OneOf) and item not in extra.options:
            raise ConfigError(f"{path}: found {item!r}: {nearest(str(item), extra.options)}")


def override(config: T, changes: Mapping[str, Any]) -> T:
    """A copy of `config` with dotted keys set: `override(config, {"method.temperature": 3.0})`.

    `{"method.name": "yu"}` changes the variant of a field and so starts from that variant's defaults; `{"method.preset": "msdf"}`
    starts from a preset, `{"method": S2SD(...), "method.weight": 5.0}` from a whole value. Raises `ConfigError` as `build` does.
    """
    nested: dict[str, Any] = {}
    # A variant is chosen before its own fields are set, whatever the order in which they were typed; a whole one first of all.
    for key in sorted(changes, key=lambda key: (_depth(changes[key], key), key.rsplit(".", 1)[-1] not in ("name", "preset"))):
        node, parts = nested, key.split(".")
        for place, part in enumerate(parts[:-1]):
            inner = node.setdefault(part, {})
            if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
                node[part] = override(inner, {".".join(parts[place + 1 :]): changes[key]})
                break
            if not isinstance(inner, dict):
                raise ConfigError(f"{key!r} is set twice: once as a whole and once in part")
            node = inner
        else:
            node[parts[-1]] = changes[key]
    return build(type(config), nested, base=config)


def _depth(value: Any, key: str) -> int:
    """Whole parts are set before their fields, outer ones first."""
    return key.count(".") if dataclasses.is_dataclass(value) else 1000


def search_space(config: Any, prefix: str = "") -> dict[str, Range | Choice]:
    """Every `Range` and `Choice` of a configuration under its dotted key, `when` made absolute (`("method.x.enabled", True)`).

    Fields that a configuration's own `idle` names are left out: beside the values of its other fields they have no effect.
    """
    space: dict[str, Range | Choice] = {}
    idle = getattr(config, "idle", ())
    for name, (_, extras) in _fields(type(config)).items():
        if name in idle:
            continue
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            space |= search_space(value, f"{prefix}{name}.")
        for extra in extras:
            if isinstance(extra, (Range, Choice)):
                when = (f"{prefix}{extra.when[0]}", extra.when[1]) if extra.when else None
                space[f"{prefix}{name}"] = dataclasses.replace(extra, when=when)
    return space

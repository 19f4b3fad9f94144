"""Searching the method itself: every option with a sub-space of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dmkd.space import Choice, Range, flatten, search_space


def variants(key: str, options: Sequence[Any], keep: Sequence[str] = ()) -> dict[str, Range | Choice]:
    """The space of a field that holds one of several whole values, each with its own sub-space:
    `variants("method", (S2SD(), ObdSd(), MetricLearning()))`.

    A conditional key carries its option behind an "@" (`method.weight@2`), so that one field may have another range beside
    another option; `override` is given the plain key. `keep` names the fields to search, as in ("weight", "temperature"); none:
    every one that has a range.
    """
    space: dict[str, Range | Choice] = {key: Choice(tuple(options))}
    for number, option in enumerate(options):
        for name, entry in search_space(option).items():
            if keep and name not in keep:
                continue
            when: tuple[str, object] = (key, option)
            if entry.when is not None:
                parent, value = entry.when
                fixed = (bool(keep) and parent not in keep) or parent not in search_space(option)
                if fixed and flatten(option).get(parent) != value:
                    continue
                when = when if fixed else (f"{key}.{parent}@{number}", value)
            space[f"{key}.{name}@{number}"] = dataclasses.replace(entry, when=when)
    return space

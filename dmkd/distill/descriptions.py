"""What each method is, in words: `descriptions.toml`, read into values and checked against the fields it speaks of."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dmkd.errors import ConfigError

FILE = Path(__file__).with_name("descriptions.toml")


@dataclass(frozen=True)
class Description:
    """A method as a reader wants it."""

    title: str
    what: str
    """Three or four sentences."""
    equation: str
    """LaTeX, without the dollar signs."""
    differences: tuple[str, ...]
    """How it differs from the released code, or from the text where the code is followed."""
    sources: Mapping[str, str]
    """Dotted field -> where its default comes from: the text, the code, or here."""


@cache
def descriptions() -> dict[str, Description]:
    """The description of every method, by `method.name`."""
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))
    shared = tables.pop("shared")
    return {
        name: Description(
            table["title"],
            table["what"].strip(),
            table["equation"],
            tuple(table["differences"]),
            shared | table["sources"],
        )
        for name, table in tables.items()
    }


def describe(name: str) -> Description:
    """The description of a method. Raises `ConfigError` where it has none."""
    if name not in descriptions():
        raise ConfigError(f"method {name!r} has no description: add one to {FILE.name}")
    return descriptions()[name]

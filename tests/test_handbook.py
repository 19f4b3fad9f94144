"""docs/methods.md is what the code says today, and every method is described to its last parameter."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dmkd.commands.methods import published_rows
from dmkd.distill import METHODS, PRESETS
from dmkd.distill.base import Method
from dmkd.distill.descriptions import describe, descriptions
from dmkd.errors import ConfigError
from dmkd.handbook import page, section
from dmkd.space import flatten
from sweeps.papers import recipes

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def test_the_page_is_what_the_code_generates() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(published_rows() or []), "run: python docs/make_methods.py"


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_has_a_source_and_every_source_a_parameter(name: str) -> None:
    common, flat, words = flatten(Method()), flatten(METHODS[name]()), describe(name)
    own = {key for key, value in flat.items() if key not in common or common[key] != value}
    assert own <= set(words.sources)
    assert {key for key in words.sources if "." not in key} <= set(flat)
    assert all(source.startswith(("text", "code", "here")) for source in words.sources.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_described_in_sentences_and_an_equation(name: str) -> None:
    words = describe(name)
    assert 2 <= len(re.findall(r"[.](?:\s|$)", words.what)) <= 5
    assert words.differences
    assert words.equation.count("{") == words.equation.count("}")
    assert len(re.findall(r"\\Big\[|\\big\[", words.equation)) == len(re.findall(r"\\Big\]|\\big\]", words.equation))
    # Markdown takes a backslash before these for an escape, also within a formula.
    assert not re.search(r"\\[,;!]|\$", words.equation)


def test_nothing_is_described_that_does_not_exist() -> None:
    assert set(descriptions()) == set(METHODS)
    with pytest.raises(ConfigError, match="has no description"):
        describe("nothing")


def test_the_rows_of_the_sections_are_all_rows_that_can_be_trained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    counts = [int(number) for number in re.findall(r"\*\*Published rows:\*\* (\d+)", text)]
    assert sum(counts) == sum(made.config is not None for made in recipes().values())
    for key in re.findall(r"\| `([a-z0-9]+/T\d[^`]*)` \|", text):
        assert recipes()[key].config is not None


@pytest.mark.parametrize("name", [*METHODS, *PRESETS])
def test_every_method_and_preset_has_a_section_with_its_own_values(name: str) -> None:
    text = section(name, [])
    method = METHODS[name]() if name in METHODS else PRESETS[name]
    assert text.startswith(f"## `{name}`: ")
    for key, value in flatten(method).items():
        found = re.search(rf"^\| `{re.escape(key)}` \| (.*?) \|", text, re.MULTILINE)
        if found and isinstance(value, float):
            assert float(found[1]) == pytest.approx(value, rel=1e-5)


def test_methods_are_shown_without_polars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.delitem(sys.modules, "tracking.published")
    assert published_rows() is None
    assert "polars is not installed" in section("msdf", None)

"""What `dmkd methods NAME` prints and docs/methods.md holds: a section for each method, generated from its fields.

The words come from `distill/descriptions.toml`, the tables from the dataclasses, the published rows from whoever asks: this
module knows neither the tracker's table of printed numbers nor the sweeps' recipes.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dmkd.distill import METHODS, PRESETS
from dmkd.distill.base import Method
from dmkd.distill.descriptions import describe
from dmkd.errors import ConfigError
from dmkd.ranges import Choice, Range
from dmkd.space import flatten, nearest, search_space

PAPERS = {
    "": "a baseline; none of the five papers",
    "yu2019": "Yu et al., Learning Metrics from Teachers: Compact Networks for Image Embedding, CVPR 2019",
    "s2sd": "Roth et al., Simultaneous Similarity-based Self-Distillation for Deep Metric Learning, ICML 2021",
    "aml": "Budnik & Avrithis, Asymmetric Metric Learning for Knowledge Transfer, CVPR 2021",
    "raml": "Suma & Tolias, Large-to-small Image Resolution Asymmetry in Deep Metric Learning, WACV 2023",
    "obdsd": "Zeng et al., Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric Learning",
}
"""Citation key -> the paper."""


@dataclass(frozen=True)
class PublishedRow:
    """A row of a paper's table and the method that gives it."""

    key: str
    paper: str
    table: str
    dataset: str
    published: str
    """The paper's own name of the method, as `published.csv` has it."""
    numbers: int
    method: Method


def find_method(name: str) -> Method:
    """A method with its defaults, or a preset. Raises `ConfigError` with the nearest name."""
    if name in METHODS:
        return METHODS[name]()
    if name not in PRESETS:
        raise ConfigError(f"methods: unknown {name!r}: {nearest(name, [*METHODS, *PRESETS])}")
    return PRESETS[name]


def section(name: str, rows: Sequence[PublishedRow] | None) -> str:
    """The section of a method, or of a preset with its own values, as Markdown; `rows` None: the table of numbers is missing."""
    method, words = find_method(name), describe(find_method(name).name)
    preset = name not in METHODS
    heading = f"## `{name}`: " + (f"preset of `{method.name}` ({words.title})" if preset else words.title)
    parts = [heading, _facts(method), words.what, f"$${words.equation}$$", _parameters(method)]
    parts += [] if preset else [_presets(method.name)]
    parts += [_rows(method, rows, preset), "**Against the released code:**\n\n" + _list(words.differences)]
    return "\n\n".join(part for part in parts if part) + "\n"


def page(rows: Sequence[PublishedRow]) -> str:
    """The whole of docs/methods.md."""
    contents = _list(f"[`{name}`](#{_anchor(name)}): {describe(name).title}" for name in METHODS)
    sections = "\n".join(section(name, rows) for name in METHODS)
    return f"{_HEAD}\n{contents}\n\n{sections}\n{_shared()}"


_HEAD = """# Methods

Made by `python docs/make_methods.py` from the code's own fields, `dmkd/distill/descriptions.toml` and the printed numbers of the
five papers; a test makes it again and compares. `dmkd methods NAME` prints one section, `dmkd methods --json` all values.

In the equations $s_i$ are student and $t_i$ teacher embeddings of a batch of $B$, $D$ and $S$ matrices of distances or of
similarities, $[\\cdot]_+$ a hinge, $\\sigma_T$ a row softmax at temperature $T$. A default's source is the paper's *text*, the
authors' released *code*, or *here*: a choice of this project where both are silent.
"""


def _facts(method: Method) -> str:
    facts = {"paper": PAPERS[method.paper], "teacher": method.teacher, "gallery at test": method.gallery}
    return "*" + "; ".join(f"{key}: {value}" for key, value in facts.items()) + "*"


def _parameters(method: Method) -> str:
    """The method's own fields, and those of batches and views that differ from every method's."""
    common, flat, ranges = flatten(Method()), flatten(method), search_space(method)
    sources, meanings = describe(method.name).sources, _meanings(type(method))
    own = [key for key in flat if key not in common or common[key] != flat[key]]
    if not own:
        return "No parameters of its own."
    rows = [
        (f"`{key}`", _plain(flat[key]), range_text(ranges.get(key)), sources.get(key, ""), meanings.get(key, "")) for key in own
    ]
    return _table(("parameter", "default", "searched", "source", "meaning"), rows)


def range_text(searched: Range | Choice | None) -> str:
    """A range for people; empty where a field is not searched."""
    if searched is None:
        return ""
    where = f" where {searched.when[0]} is {searched.when[1]}" if searched.when else ""
    if isinstance(searched, Choice):
        return f"one of {list(searched.options)}{where}"
    return f"[{searched.low:g}, {searched.high:g}]{' log' if searched.log else ''}{where}"


def _presets(name: str) -> str:
    default = flatten(METHODS[name]())
    rows = []
    for label, preset in PRESETS.items():
        if preset.name == name:
            changed = {key: value for key, value in flatten(preset).items() if default[key] != value}
            rows.append((f"`{label}`", ", ".join(f"`{key}={_plain(value)}`" for key, value in changed.items()) or "the defaults"))
    return _table(("preset", "what differs from the defaults"), rows) if rows else ""


def _rows(method: Method, rows: Sequence[PublishedRow] | None, exact: bool) -> str:
    """Tables of the papers whose rows this method gives (`exact`: with these very values)."""
    if rows is None:
        return "Published rows: not shown, since the package polars is not installed."
    own = [row for row in rows if (row.method == method if exact else row.method.name == method.name)]
    if not own:
        return "**Published rows:** none of the five papers' tables."
    tables: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in own:
        tables.setdefault((row.paper, row.table), []).append(row)
    lines = [
        (
            f"{paper} {table}",
            str(len(found)),
            str(sum(row.numbers for row in found)),
            ", ".join(dict.fromkeys(row.published for row in found)),
            ", ".join(dict.fromkeys(row.dataset for row in found)),
            f"`{found[0].key}`",
        )
        for (paper, table), found in tables.items()
    ]
    head = f"**Published rows:** {len(own)} (`dmkd published`, `dmkd train --published KEY`).\n\n"
    return head + _table(("table", "rows", "numbers", "the paper's names", "data sets", "first key"), lines)


def _shared() -> str:
    """Batches and views, which every method has."""
    meanings, ranges, flat = _meanings(Method), search_space(Method()), flatten(Method())
    rows = [(f"`{key}`", _plain(value), range_text(ranges.get(key)), meanings.get(key, "")) for key, value in flat.items()]
    text = "## Batches and views\n\nEvery method has these; its own table lists those that it sets otherwise.\n\n"
    return text + _table(("parameter", "default", "searched", "meaning"), rows) + "\n"


def _meanings(cls: type[Any]) -> Mapping[str, str]:
    """Dotted field -> the docstring under it, nested parts included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not hasattr(base, "__dataclass_fields__"):
            continue
        found |= _docstrings(base)
    for name, field in cls.__dataclass_fields__.items():
        if hasattr(field.default, "__dataclass_fields__"):
            found |= {f"{name}.{key}": text for key, text in _meanings(type(field.default)).items()}
    return found


def _docstrings(cls: type) -> dict[str, str]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    statements = body.body if isinstance(body, ast.ClassDef) else []
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in pairwise(statements)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _anchor(name: str) -> str:
    """GitHub's anchor of a section's heading."""
    kept = "".join(letter for letter in f"{name}: {describe(name).title}".lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")

"""`dmkd published`: the rows of the five papers' tables, their printed numbers, and what trains them."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmkd.commands import Add


def add(command: Add) -> None:
    """The parser."""
    published_ = command("published", published, "every row of the five papers' tables: key, printed numbers, how it is trained")
    published_.add_argument(
        "key", nargs="?", default="", metavar="KEY", help="one row, with its configuration, teacher and notes"
    )
    for name, metavar in (("paper", "P"), ("table", "T"), ("dataset", "NAME"), ("method", "M")):
        published_.add_argument(f"--{name}", default="", metavar=metavar, help=f"only rows of this {name}")
    published_.add_argument("--json", action="store_true")


def published(options: argparse.Namespace) -> None:
    """Print the rows that were asked for."""
    rows = published_rows(options.paper, options.table, options.dataset, options.method, options.key)
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.key:
        print("\n".join(_section(rows[0])))
    else:
        print("\n".join(map(_line, rows)))


def published_rows(paper: str = "", table: str = "", dataset: str = "", method: str = "", key: str = "") -> list[dict[str, Any]]:
    """One entry a key: its printed numbers, and whether and how it is trained. Raises `TrackingError` for an unknown value."""
    from sweeps.papers import recipes
    from tracking.published import find

    found = find(paper, table, dataset, method, key)
    made = recipes()
    rows = []
    for (name,), cells in found.group_by(("key",), maintain_order=True):
        recipe = made[str(name)]
        facts = {"key": name, "trainable": recipe.config is not None, "reason": recipe.reason, "teacher": recipe.teacher}
        facts |= {"start": recipe.start, "selection": recipe.selection, "notes": list(recipe.notes)}
        columns = ("metric", "score", "value", "std", "uncertain", "setting", "source_note")
        rows.append(facts | {"numbers": cells.select(columns).to_dicts()})
    return rows


def _line(row: dict[str, Any]) -> str:
    cells = "  ".join(_cell(number) for number in row["numbers"])
    return f"{row['key']}  {cells}" + ("" if row["trainable"] else f"  (not trained: {row['reason']})")


def _cell(number: dict[str, Any]) -> str:
    name = (number["score"] or number["metric"]).removeprefix("test/")
    spread = f"+-{number['std']:g}" if number["std"] is not None else ""
    return f"{name} {number['value']:g}{spread}{'?' if number['uncertain'] else ''}"


def _section(row: dict[str, Any]) -> list[str]:
    """A row at full length; what of its configuration is not dmkd's default stands as YAML keys."""
    from sweeps.papers import recipe
    from sweeps.papers.printed import stated

    lines = [row["key"], *(f"  printed: {_cell(number)}" for number in row["numbers"])]
    notes = sorted({number["source_note"] for number in row["numbers"] if number["source_note"]})
    lines += [f"  source: {note}" for note in notes]
    if not row["trainable"]:
        return [*lines, f"  not trained: {row['reason']}"]
    lines += ["  configuration (what differs from the defaults):"]
    lines += [f"    {key} = {value}" for key, value in _changes(stated(recipe(row["key"]), validation=False)).items()]
    for name in ("teacher", "start", "selection"):
        lines += [f"  {name}: {row[name]}"] if row[name] else []
    lines += [f"  note: {note}" for note in row["notes"]]
    return [*lines, f"  train it: dmkd train --published '{row['key']}'" + _given(row)]


def _given(row: dict[str, Any]) -> str:
    """What a row wants from its user: its teacher, and the network that it starts from."""
    return " --teacher REF" * bool(row["teacher"]) + " --set student.checkpoint=DIR" * bool(row["start"])


def _changes(config: Any) -> dict[str, Any]:
    """Keys whose value is not that of a configuration with the same method and loss at their defaults."""
    from dmkd.config import Config
    from dmkd.space import flatten

    defaults = flatten(Config(loss=type(config.loss)(), method=type(config.method)()))
    named = ("method.name", "loss.name")
    return {key: value for key, value in flatten(config).items() if key in named or defaults[key] != value}

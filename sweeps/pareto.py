"""The Pareto front of a search over several objectives: what no other trial beats in everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna

from sweeps.objectives import Objectives
from sweeps.space import Searched
from sweeps.study import ranked
from tracking.places import write_text


def write_front(folder: Path, study: optuna.Study, searched: Searched, objectives: Objectives) -> str:
    """Write `pareto.json` into `folder` and return the front as a table for a person, the most accurate first."""
    rows = [
        {"trial": trial.number}
        | dict(zip(objectives.names, trial.values, strict=True))
        | {"configuration": {key: _shown(value) for key, value in searched.decoded(trial).items()}}
        for trial in ranked(study)
    ]
    write_text(folder / "pareto.json", json.dumps({"objectives": objectives.names, "front": rows}, indent=1))
    return render_front(rows, objectives)


def render_front(rows: list[dict[str, Any]], objectives: Objectives) -> str:
    """One line a trial of the front."""
    names = [name.split("/", 1)[1] for name in objectives.names]
    lines = [
        "Pareto front of the search (validation)",
        "trial  " + "  ".join(f"{name:>14}" for name in names) + "  configuration",
    ]
    for row in rows:
        values = "  ".join(f"{row[name]:14.4g}" for name in objectives.names)
        told = ", ".join(f"{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in row["configuration"].items())
        lines.append(f"{row['trial']:5d}  {values}  {told}")
    return "\n".join(lines)


def _shown(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(getattr(value, "label", value))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

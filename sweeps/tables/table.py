"""What an experiment's script states: which printed rows it trains, on which data sets, and what its search form varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from dmkd.errors import SweepError, nearest
from sweeps.papers import recipe, recipes
from sweeps.papers.row import Values
from sweeps.space import Space


@dataclass(frozen=True)
class Line:
    """A row of an experiment: a printed row, by its key in `tracking.published`, and what is changed of it."""

    key: str
    """`{dataset}` stands for the chosen data set; `*` fits every row of a table."""
    changes: Values = field(default_factory=dict)
    label: str = ""
    """What the board calls it; empty: what the key says beyond paper, table and data set."""
    teacher: Line | None = None
    """Another teacher than the row's own."""
    on: Mapping[str, Values] = field(default_factory=dict)
    """Data set -> what is changed there beside `changes`."""

    @property
    def name(self) -> str:
        """`label`, or the end of the key and the changes."""
        told = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in self.changes.items()]
        return self.label or " ".join([self.key.split("/", 3)[-1], *told])


@dataclass(frozen=True)
class Table:
    """A published experiment."""

    name: str
    description: str
    """The script's docstring."""
    lines: tuple[Line | str, ...]
    datasets: tuple[str, ...]
    """Data sets of `--dataset`, the first one the default; each is an experiment of its own."""
    search: str = ""
    """Key of the row that `--search` starts from; `{dataset}` as in `Line`. Empty: there is nothing to search."""
    space: Space = field(default_factory=dict)
    """What `--search` varies, around that row; keys that the row does not have are left out."""
    validation: bool = False
    """Train with the validation classes held out and report on them: figures that the paper drew on its validation set."""
    seeds: int = 3
    trials: int = 20
    """Of the search."""
    report: str = ""
    """Metric that the board is asked for; empty: the first that the table prints."""
    metrics: tuple[str, ...] = ()
    """Metrics (`dmkd.evaluation.METRICS`) that are measured beside what the table's printed numbers ask for."""
    training_classes: bool = False
    """Measure the training classes too, as `train/<metric>`."""

    def dataset(self, asked: str) -> str:
        """The data set meant by `--dataset`. Raises `SweepError` for one that the experiment does not have."""
        if asked and asked not in self.datasets:
            raise SweepError(f"--dataset {asked!r}: {nearest(asked, self.datasets)} ({self.name} has {', '.join(self.datasets)})")
        return asked or self.datasets[0]

    def title(self, dataset: str) -> str:
        """The sweep's name: of the experiment, and of the data set where there are several."""
        return f"{self.name}_{dataset}" if len(self.datasets) > 1 else self.name

    def rows(self, dataset: str) -> list[Line]:
        """Every line, patterns written out in the order of the paper. Raises `SweepError` for a pattern that fits no row."""
        return [line for stated in self.lines for line in _written_out(stated, dataset)]


def chosen(lines: Sequence[Line], pattern: str) -> list[Line]:
    """The lines whose name or key fits one of the comma-separated patterns, or holds one that has no wildcard.

    Raises `SweepError` where none does.
    """
    patterns = [part.strip() for part in pattern.split(",") if part.strip()]
    kept = [line for line in lines if not patterns or any(_fits(line, part) for part in patterns)]
    if not kept:
        raise SweepError(f"--rows {pattern!r}: no row fits; there are {', '.join(line.name for line in lines)}")
    return kept


def _fits(line: Line, pattern: str) -> bool:
    plain = not any(sign in pattern for sign in "*?[")
    return any(fnmatchcase(text, f"*{pattern}*" if plain else pattern) for text in (line.name, line.key))


def _written_out(stated: Line | str, dataset: str) -> list[Line]:
    line = stated if isinstance(stated, Line) else Line(stated)
    line = _placed(line, dataset)
    if "*" not in line.key:
        recipe(line.key)
        return [line]
    found = [replace(line, key=key) for key in recipes() if fnmatchcase(key, line.key)]
    if not found:
        raise SweepError(f"{line.key}: no published row fits")
    return found


def _placed(line: Line, dataset: str) -> Line:
    teacher = _placed(line.teacher, dataset) if line.teacher else None
    changes = line.changes | line.on.get(dataset, {})
    return replace(line, key=line.key.replace("{dataset}", dataset), changes=changes, teacher=teacher, on={})

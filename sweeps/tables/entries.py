"""From the lines of a table to trainings: one for each distinct configuration, with the networks that it needs first."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from dmkd.config import Config, config_hash, parse_assignments
from dmkd.space import flatten, override
from sweeps.options import Options
from sweeps.papers import recipe
from sweeps.papers.printed import stated
from sweeps.papers.row import Values
from sweeps.rows import BARE, EVALUATE_ONLY, settled
from sweeps.tables.table import Line, Table, chosen

SECTIONS = ("data", "student", "teacher", "loss", "method", "optim", "evaluation")
"""Parts of a configuration; a job of a table gives each as a whole."""


@dataclass(frozen=True)
class Entry:
    """A training of a table."""

    config: Config
    """As it is trained, but for the checkpoints of the networks that it needs."""
    label: str
    keys: tuple[str, ...] = ()
    """Printed rows that this very network is: one training gives a row of several tables, or of several test sets."""
    teacher: Entry | None = None
    start: Entry | None = None
    """The network that the student starts from, where that is not its teacher."""
    source: str = ""
    """The key that the configuration comes from, also where it was changed."""
    reference: str = ""
    """untrained: the row is there to be compared with, and is measured once."""

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits of the configuration and of the networks that it needs, wherever they lie."""
        places = {f"{part}.checkpoint": f"entry:{needed.id}" for part, needed in self.needs.items()}
        return config_hash(settled(override(self.config, places)))

    @property
    def needs(self) -> dict[str, Entry]:
        """The networks that have to be there first: {"teacher": ..., "student": ...}."""
        return {part: needed for part, needed in (("teacher", self.teacher), ("student", self.start)) if needed is not None}

    def values(self, places: Mapping[str, str]) -> dict[str, Any]:
        """What a job overrides in the default configuration; `places`: checkpoint folders of the needed entries, by id."""
        found = {f"{part}.checkpoint": places[needed.id] for part, needed in self.needs.items() if needed.id in places}
        config = override(self.config, found)
        return {section: getattr(config, section) for section in SECTIONS}

    @property
    def objective(self) -> str:
        """The metric that chooses among epochs where classes are held out."""
        return f"{'val_asymmetric' if self.config.method.gallery == 'teacher' else 'val'}/recall_at_1"


@dataclass(frozen=True)
class Rows:
    """What a table comes to on one data set."""

    entries: list[Entry]
    quoted: dict[str, str]
    """Key -> why it is not trained."""

    @property
    def untrained(self) -> list[Entry]:
        """What a row has to be better than, one of each: the backbone as it comes, at the student's resolution; and for a
        student that searches its teacher's gallery that student before its first step, which has the dimensions to do so.
        """
        tested = [entry for entry in self.entries if entry.config.evaluation.test]
        starts = [entry for entry in tested if entry.config.method.gallery == "teacher"]
        bare = [entry for entry in tested if entry.config.student.checkpoint in ("", "teacher")]
        first = {_pair(entry): entry for entry in reversed(starts)}
        made = [*map(_untrained, bare), *map(_as_it_starts, reversed(first.values()))]
        return list({entry.id: entry for entry in made}.values())

    @property
    def needed(self) -> list[Entry]:
        """The networks that entries need, each once, in order."""
        return list({needed.id: needed for entry in self.entries for needed in entry.needs.values()}.values())


def _untrained(entry: Entry) -> Entry:
    untouched = {"loss": Config().loss, "optim": replace(Config().optim, epochs=0)}  # nothing of them is left to say
    config = override(entry.config, EVALUATE_ONLY | untouched | BARE)
    label = f"untrained {config.student.backbone} at {config.student.resolution}"
    return Entry(config, label, source=entry.source, reference="untrained")


def _pair(entry: Entry) -> tuple[Hashable, ...]:
    """Entries that agree in it are one network before their first step, and search one gallery."""
    return entry.config.student, entry.config.teacher, *(needed.id for needed in entry.needs.values())


def _as_it_starts(entry: Entry) -> Entry:
    """A student before its first step: its teacher, where it starts from that one's weights; else with a last layer at random."""
    config = override(entry.config, {"optim.epochs": 0})
    new = f"{config.student.backbone} with a new layer of {config.student.dim}" if config.student.dim else config.student.backbone
    start = "the teacher" if config.student.checkpoint == "teacher" else entry.start.label if entry.start else new
    label = f"untrained, {start} at {config.student.resolution}"
    return replace(entry, config=config, label=label, keys=(), reference="untrained")


def entries(table: Table, dataset: str, options: Options) -> Rows:
    """The trainings of a table, equal configurations once.

    Of `options` count --rows, --trials (the first N of them), --set, --epochs and --data-root.
    Raises `SweepError` for rows that are not there and `ConfigError` for a key of --set that no row has.
    """
    lines, maker = chosen(table.rows(dataset), options.rows), Maker(options, table)
    quoted = {line.key: recipe(line.key).reason for line in lines if recipe(line.key).config is None}
    made = [maker.entry(line) for line in lines if line.key not in quoted]
    maker.check()
    return Rows(merged(made)[: options.trials], quoted)


class Maker:
    """Makes entries under one command line. A key of --set applies to every row that has it, teachers included."""

    def __init__(self, options: Options, table: Table, validation: bool = False) -> None:
        self.table, self.validation = table, table.validation or validation
        self.changes: Values = parse_assignments(list(options.set))
        self.changes |= {"optim.epochs": options.epochs} if options.epochs is not None else {}
        self.changes |= {"data.root": absolute(options.data_root)} if options.data_root else {}
        self.unused, self.last = set(self.changes), Config()

    def entry(self, line: Line) -> Entry:
        """The training of a line whose recipe has a configuration."""
        row, teacher = recipe(line.key), line.teacher
        base = self._measured(stated(row, self.validation))
        config = override(base, line.changes)
        needed = teacher or (Line(row.teacher) if row.teacher and config.method.teacher == "pretrained" else None)
        start = Line(row.start) if row.start and not config.student.checkpoint else None
        keys = (line.key,) if config == base and not self.validation and teacher is None else ()
        given = self._set(config)
        return Entry(
            given,
            line.name,
            keys,
            self.entry(needed) if needed and not given.teacher.checkpoint else None,
            self.entry(start) if start and not given.student.checkpoint else None,
            line.key,
        )

    def _measured(self, config: Config) -> Config:
        """With the table's own metrics."""
        evaluation = config.evaluation
        metrics = tuple(dict.fromkeys((*evaluation.metrics, *self.table.metrics)))
        return override(
            config, {"evaluation.metrics": metrics, "evaluation.train": evaluation.train or self.table.training_classes}
        )

    def check(self) -> None:
        """Raise `ConfigError` for a key of --set that no row has."""
        override(self.last, {key: self.changes[key] for key in self.unused})

    def _set(self, config: Config) -> Config:
        flat, self.last = flatten(config), config
        own = {key for key in self.changes if key in flat or any(name.startswith(f"{key}.") for name in flat)}
        own -= {"teacher.checkpoint"} if config.method.teacher != "pretrained" else set()
        self.unused -= own
        return override(config, {key: self.changes[key] for key in own})


def merged(made: Sequence[Entry]) -> list[Entry]:
    """One of each configuration, with the keys of all."""
    unique: dict[str, Entry] = {}
    for entry in made:
        first = unique.setdefault(entry.id, entry)
        keys = tuple(dict.fromkeys((*first.keys, *entry.keys)))
        unique[entry.id] = replace(first, keys=keys)
    return list(unique.values())


def absolute(root: str) -> str:
    """A data folder that means the same in every process."""
    from os.path import abspath

    return abspath(root)

"""A table checked against what is there, before a cluster starts: data, networks, teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dmkd.config import Config
from dmkd.data.datasets import load_dataset
from dmkd.data.splits import Parts, split
from dmkd.errors import SweepError
from sweeps.driver import About
from sweeps.estimate import Load
from sweeps.forecast import forecast, lines, missing
from sweeps.options import Options
from sweeps.places import Places
from sweeps.prepare import protocol_of
from sweeps.sizes import Size, find_size
from sweeps.tables.entries import Entry, Rows, entries
from sweeps.tables.run import Planned, Trainable, named, own_checkpoint
from sweeps.tables.table import Table
from sweeps.teachers import check_training, find_teacher
from tracking.published import load_published


@dataclass(frozen=True)
class Asked:
    """A table as the command line asks for it."""

    table: Table
    dataset: str
    options: Options

    @cached_property
    def rows(self) -> Rows:
        """Its trainings."""
        return entries(self.table, self.dataset, self.options)

    @property
    def seeds(self) -> int:
        """Of each row."""
        return self.options.seeds or self.table.seeds

    @property
    def stage(self) -> str:
        """What the board takes its runs for."""
        return "search" if self.table.validation else "final"

    @property
    def command(self) -> str:
        """What trains the table with the networks that it needs."""
        chosen = f" --dataset {self.dataset}" if len(self.table.datasets) > 1 else ""
        return f"python -m sweeps.{self.table.name}{chosen} --with-teacher"

    @property
    def name(self) -> str:
        """Of the sweep."""
        return self.options.name or self.table.title(self.dataset)

    @property
    def about(self) -> About:
        """What the sweep is called, and what its board is asked for."""
        first = self.rows.entries[0]
        experiment = f"{first.config.data.name}/{self.name}"
        report = self.reports[0]
        chosen = f"val{'_asymmetric' * report.startswith('test_asymmetric')}/{report.split('/', 1)[1]}"
        return About(experiment, self.name, self.table.description, chosen, report)

    @cached_property
    def reports(self) -> list[str]:
        """The metrics of the boards: the table's own, else the first that is printed in each role."""
        if self.table.report and not self.table.validation:
            return [self.table.report]
        keys = {key for entry in self.rows.entries for key in entry.keys}
        printed = load_published().filter(load_published()["key"].is_in(list(keys)))["score"].drop_nulls().to_list()
        first: dict[str, str] = {}
        for score in dict.fromkeys(printed):
            role = score.split("/", 1)[0]
            first |= {role: score} if role in ("test", "test_asymmetric") and role not in first else {}
        own = "test_asymmetric/map" if self.rows.entries[0].config.method.gallery == "teacher" else "test/recall_at_1"
        return list(first.values()) or [own]

    def summary(self, planned: Planned, places: Places) -> list[str]:
        """What is going to be run, in lines for a person."""
        first = self.rows.entries[0].config
        trained = self.needs_training(planned.found)
        return [
            f"{self.name}: {len(self.rows.entries)} rows x {self.seeds} seeds on {first.data.name}",
            *(f"  first: {entry.label} ({entry.source}), which rows learn from" for entry in trained),
            f"  results: {places.shown}; runs: {places.tracking_uri}, experiment {self.about.experiment}",
            *(f"  note: {note}" for note in planned.notes),
        ]

    def needs_training(self, found: dict[str, str]) -> list[Entry]:
        """The networks that rows need, that are no rows themselves, and that nobody has trained."""
        own = {entry.id for entry in self.rows.entries}
        return [entry for entry in self.rows.needed if entry.id not in own and entry.id not in found]


def plan_table(asked: Asked, places: Places) -> Planned:
    """Check everything that can be known. Raises `DataError`, `WeightsError`, `ConfigError`, `SweepError` in one line."""
    rows = asked.rows
    if not rows.entries:
        raise SweepError(f"{asked.name}: no row of it is trained: {next(iter(rows.quoted.values()))}")
    known = {entry.id: entry for entry in [*rows.needed, *rows.untrained, *rows.entries]}
    cut = Cut()
    trainable = {entry.id: _trainable(entry, cut) for entry in known.values()}
    found = find_networks(asked, trainable, places)
    if (untrained := asked.needs_training(found)) and not asked.options.with_teacher:
        raise SweepError(f"{len(untrained)} networks that rows need are not trained, first {untrained[0].label}: {asked.command}")
    notes = check_teachers(rows, trainable, found, asked)
    check_networks([entry.config for entry in known.values() if entry.id not in found])
    return Planned(asked.about, rows, trainable, asked.seeds, asked.stage, found, notes, asked.reports)


class Cut:
    """Data sets, each read and cut once."""

    def __init__(self) -> None:
        self._parts: dict[str, Parts] = {}
        self._prints: dict[str, str] = {}

    def parts(self, config: Config) -> Parts:
        """The parts of a configuration's data."""
        name = str(config.data)
        if name not in self._parts:
            pictures = load_dataset(config.data)
            self._parts[name], self._prints[name] = split(pictures, config.data), pictures.fingerprint
        return self._parts[name]

    def fingerprint(self, config: Config) -> str:
        """Of the pictures."""
        self.parts(config)
        return self._prints[str(config.data)]


def _trainable(entry: Entry, cut: Cut) -> Trainable:
    parts = cut.parts(entry.config)
    if entry.config.evaluation.test and parts.test is None and not entry.config.evaluation.landmarks:
        raise SweepError(f"data set {entry.config.data.name!r} has no test classes, but the table reports on them")
    return Trainable(entry, parts, protocol_of(entry.config, parts), cut.fingerprint(entry.config))


def find_networks(asked: Asked, trainable: dict[str, Trainable], places: Places) -> dict[str, str]:
    """Entry id -> checkpoint folder of the needed networks that this sweep has trained before, or that the registry holds."""
    found = {}
    for entry in asked.rows.needed:
        name, alias = named(trainable[entry.id])
        registered = places.folder / "registered" / alias
        own = own_checkpoint(places, asked.stage, entry)
        folder = own or find_teacher(name, alias, registered, places.tracking_uri)
        if folder and not own:
            found[entry.id] = folder
    return found


def check_teachers(rows: Rows, trainable: dict[str, Trainable], found: dict[str, str], asked: Asked) -> list[str]:
    """Notes on the teachers that were given or found. Raises `SweepError` where one has seen what it must not."""
    notes = []
    for entry in rows.entries:
        folders = {found.get(needed.id, "") for needed in entry.needs.values()} | {entry.config.teacher.checkpoint}
        for folder in filter(None, folders):
            notes.append(check_training(folder, trainable[entry.id].parts, asked.command))
    return list(dict.fromkeys(filter(None, notes)))


def check_networks(configs: Sequence[Config]) -> None:
    """Build each network once. Raises `WeightsError` or `ConfigError` where a name or the weights do not exist."""
    from dmkd.models.embedder import build_network

    for student in dict.fromkeys(config.student for config in configs if not config.student.checkpoint):
        build_network(student)


def dry_run(asked: Asked, places: Places | None) -> list[str]:
    """The plan in lines, whether or not the data are there."""
    sizes: dict[str, tuple[Size, str]] = {}
    rows = asked.rows
    known = [*asked.needs_training({}), *rows.entries]
    for entry in known:
        if (name := str(entry.config.data)) not in sizes:
            sizes[name] = find_size(entry.config.data, asked.dataset)
    absent = list(dict.fromkeys(gone for _, gone in sizes.values() if gone))
    found = _already(asked, places) if places is not None and not absent else {}
    extra = asked.needs_training(found)
    loads = [_load(entry, sizes, 1) for entry in [*extra, *rows.untrained]]
    loads += [_load(entry, sizes, asked.seeds) for entry in rows.entries]
    cut = Cut()
    probing = not (absent or asked.options.no_probe)
    told = forecast(loads, lambda load: cut.parts(load.config), probing)
    first = sizes[str(rows.entries[0].config.data)][0]
    title = (
        f"{asked.name}: {len(rows.entries)} rows x {asked.seeds} seeds on {asked.dataset} ({first.classes} training classes of "
        f"{first.train} pictures, {first.val} for validation, {first.test} for test)"
    )
    gone = [missing(what) for what in absent]
    gone += [
        missing(f"network {entry.label} ({entry.source})", asked.command) for entry in extra if not asked.options.with_teacher
    ]
    quoted = [f"  printed, not trained here: {len(rows.quoted)} rows"] if rows.quoted else []
    return [title, *lines(loads, told), *quoted, *gone]


def _already(asked: Asked, places: Places) -> dict[str, str]:
    cut = Cut()
    trainable = {entry.id: _trainable(entry, cut) for entry in asked.rows.needed}
    own = {entry.id: own_checkpoint(places, asked.stage, entry) for entry in asked.rows.needed}
    return find_networks(asked, trainable, places) | {name: folder for name, folder in own.items() if folder}


def _load(entry: Entry, sizes: dict[str, tuple[Size, str]], runs: int) -> Load:
    teacher = entry.teacher.config.student if entry.teacher else None
    return Load(entry.label, entry.config, sizes[str(entry.config.data)][0], runs, teacher)

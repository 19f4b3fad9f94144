"""What a sweep was begun with, kept beside its study: the same name may go on, but only as the same sweep."""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmkd.errors import SweepError
from dmkd.space import flatten
from sweeps.options import Options
from sweeps.places import STUDY
from sweeps.plan import Definition
from tracking.places import write_text


@dataclass
class Record:
    """`<storage>/<sweep>/sweep.json`."""

    path: Path
    id: str
    """Unlike the name it is new for every sweep, so that runs of a deleted sweep are never continued."""
    settings: dict[str, str]
    trials: int
    """In all; `extended` of them were asked for later."""
    extended: int = 0
    finished: bool = False
    wall_seconds: float = 0.0
    """What its sessions took so far."""
    packing: dict[str, Any] | None = None
    """What the probe of `--gpus-per-trial auto` found (`sweeps.packing.Measured`)."""

    def extend(self, trials: int) -> None:
        """So many more; written."""
        self.trials, self.extended, self.finished = self.trials + trials, self.extended + trials, False
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        write_text(self.path, json.dumps(dataclasses.asdict(self) | {"path": ""}, indent=2))


def open_record(folder: Path, definition: Definition, objective: str, options: Options) -> Record:
    """The sweep's record, made or taken up.

    Raises `SweepError` where the folder holds another sweep (with the difference), one that has trials and is not finished, but
    for `--resume`, or one that was planned with fewer trials.
    """
    settings = _settings(definition, objective) | (
        {"search seeds": str(options.search_seeds)} if options.search_seeds > 1 else {}
    )
    return open_settings(folder, definition.name, settings, definition.trials, options)


def open_settings(folder: Path, name: str, settings: dict[str, str], trials: int, options: Options) -> Record:
    """The same for a sweep that is known by `settings`. Raises `SweepError` as `open_record` does."""
    path = folder / "sweep.json"
    record = Record(**json.loads(path.read_text(encoding="utf-8")) | {"path": path}) if path.exists() else None
    if record is None or not (record.finished or _trained(folder)):
        (folder / STUDY).unlink(missing_ok=True)
        record = Record(path, f"{name}-{uuid.uuid4().hex[:6]}", settings, trials + options.extend)
        record.save()
        return record
    _same(record, settings, name)
    if not record.finished and not (options.resume or options.rerun_failed or options.extend):
        raise SweepError(f"sweep {name!r} was begun and is not finished: --resume goes on with it, --name starts another")
    if options.trials and options.trials != record.trials:
        raise SweepError(
            f"sweep {name!r} has {record.trials} trials, --trials asks for {options.trials}: use --extend N for N more"
        )
    if options.extend:
        record.extend(options.extend)
    return record


def _trained(folder: Path) -> bool:
    """Whether a trial was begun; a sweep that was refused before (by a node, the tracker, a teacher) starts as a new one."""
    trials = folder / "trials"
    return trials.is_dir() and any(trials.iterdir())


def _settings(definition: Definition, objective: str) -> dict[str, str]:
    flat: dict[str, Any] = flatten(definition.base) | {"objective": objective}
    flat |= {f"search space of {key}": entry for key, entry in definition.space.items()}
    if definition.teacher is not None:
        flat |= {f"teacher run's {key}": value for key, value in flatten(definition.teacher).items()}
    return {key: str(value) for key, value in flat.items()}


def _same(record: Record, settings: dict[str, str], name: str) -> None:
    keys = [key for key in record.settings | settings if record.settings.get(key) != settings.get(key)]
    keys = [key for key in keys if not key.endswith(("data.root", "data.workers"))]
    if keys:
        was = "; ".join(f"{key}: {record.settings.get(key, 'nothing')} -> {settings.get(key, 'nothing')}" for key in keys)
        raise SweepError(
            f"sweep {name!r} was begun with another configuration ({was}): set it back to go on, or choose another --name"
        )

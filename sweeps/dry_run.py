"""`--dry-run` of a search: what would be run, what it costs, what is missing, whether or not the data are there."""

from __future__ import annotations

from dmkd.config import Config
from dmkd.data.datasets import load_dataset
from dmkd.data.splits import Parts, split
from dmkd.models import Network
from dmkd.space import override
from sweeps.estimate import Load
from sweeps.forecast import forecast, lines, missing
from sweeps.options import Options
from sweeps.places import find_places
from sweeps.plan import Definition, bounded
from sweeps.prepare import prepare
from sweeps.rows import Row, final_rows, final_values
from sweeps.sizes import find_size
from sweeps.space import Searched


def sweep_lines(definition: Definition, options: Options) -> list[str]:
    """The plan in lines. Raises `ConfigError` and `SweepError` as the sweep itself, but for what is not there yet."""
    places = find_places(options, definition.name, make=False)
    base = definition.base
    searched = bounded(Searched(base, definition.space), options.max_gflops)
    size, gone = find_size(base.data, definition.dataset or base.data.name)
    untaught = base.method.teacher == "pretrained" and not base.teacher.checkpoint and definition.teacher is None
    head = [f"{definition.name}: {base.method.label}, {size.classes} training classes of {size.train} pictures, {size.val} for "
            f"validation; searched: {', '.join(searched.space) or 'nothing'}"]  # fmt: skip
    if not gone and not untaught:
        head = prepare(definition, options).summary(places)
    loads = _loads(definition, searched)
    probing = not (gone or untaught or options.no_probe)
    told = forecast(loads, lambda load: _parts(load.config), probing)
    absent = [missing(gone)] if gone else []
    absent += [missing("a teacher", "--set teacher.checkpoint=FOLDER")] if untaught else []
    if definition.teacher_name and definition.teacher is not None and not options.with_teacher:
        absent.append(missing(f"{definition.teacher_name} (unless the registry has it)", definition.command))
    return [*head, *lines(loads, told), *absent]


def _loads(definition: Definition, searched: Searched) -> list[Load]:
    """The teacher, the trials, and each row of the final stage."""
    base, teacher = definition.base, definition.teacher
    network = teacher.student if teacher else None
    trials = definition.trials if searched.space else 1 + len(definition.points)
    loads = [_load("teacher", teacher, definition, max(1, base.data.folds), None)] if teacher else []
    loads.append(_load("search", base, definition, trials, network))
    rows = final_rows(definition, {}, "")
    rows += [Row(f"best {number}", {}, definition.seeds) for number in range(1, definition.finalists + 1)]
    return loads + [
        _load(f"final: {row.label}", override(base, row.values | final_values(base)), definition, row.seeds, network)
        for row in rows
    ]


def _load(label: str, config: Config, definition: Definition, runs: int, teacher: Network | None) -> Load:
    size = find_size(config.data, definition.dataset or config.data.name)[0]
    return Load(label, config, size, runs, teacher if config.method.teacher == "pretrained" else None)


def _parts(config: Config) -> Parts:
    return split(load_dataset(config.data), config.data)

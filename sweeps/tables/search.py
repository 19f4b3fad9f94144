"""The search form of a table: from the setting that the paper printed, over its own hyper-parameters, on validation classes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from dmkd.config import Config, config_hash
from dmkd.data.datasets import load_dataset
from dmkd.data.splits import Parts, split
from dmkd.errors import DataError, SweepError
from dmkd.space import flatten
from sweeps.options import Options
from sweeps.places import Places, find_places
from sweeps.plan import Definition, configured
from sweeps.rows import settled, teacher_jobs
from sweeps.space import Space
from sweeps.sweep import run_sweep
from sweeps.tables.entries import Entry, Maker
from sweeps.tables.standing import tags as standing
from sweeps.tables.table import Table
from sweeps.teachers import find_teacher, model_alias, model_name, with_given
from sweeps.trial import read_done


def run_search(table: Table, dataset: str, options: Options) -> list[str]:
    """Search, then train the best on all training classes; what failed, in words."""
    stated = definition(table, dataset, options)
    places = find_places(options, stated.name, make=not options.dry_run)
    # The command line is in the definition already: its --set reached student and teacher.
    plain = replace(options, set=(), epochs=None, data_root="")
    stated = configured(replace(stated, name=options.name or stated.name), plain)
    if options.dry_run:
        return run_sweep(stated, plain)
    return run_sweep(with_teacher(stated, options, places, command(table, dataset)), plain)


def command(table: Table, dataset: str) -> str:
    """What runs the search with the teacher that it needs."""
    chosen = f" --dataset {dataset}" if len(table.datasets) > 1 else ""
    return f"python -m sweeps.{table.name}{chosen} --search --with-teacher"


def definition(table: Table, dataset: str, options: Options) -> Definition:
    """The search around the table's own row. Raises `SweepError` where it needs two other networks."""
    name = f"{table.title(dataset)}_search"
    options = with_given(options, find_places(options, options.name or name, make=False))
    line = replace(table, lines=(table.search,)).rows(dataset)[0]
    maker = Maker(options, table, validation=True)
    entry = maker.entry(line)
    maker.check()
    if entry.start is not None:
        raise SweepError(
            f"{line.key}: a search starts its student from its teacher or from ImageNet; give --set student.checkpoint"
        )
    teacher = entry.teacher.config if entry.teacher else None
    final = Maker(options, replace(table, validation=False)).entry(line)
    return Definition(
        name,
        replace(entry.config, evaluation=replace(entry.config.evaluation, test=False)),
        searched(table.space, entry, {assignment.split("=")[0] for assignment in options.set}),
        table.description,
        references(entry),
        teacher=teacher,
        teacher_name=model_name(entry.teacher.source) if entry.teacher else "",
        row_tags={"trial 0": standing(final, parts_if_there(final.config))},
        trials=table.trials,
        seeds=table.seeds,
        command=command(table, dataset),
        dataset=dataset,
    )


def parts_if_there(config: Config) -> Parts | None:
    """The parts of the data, or None where they are not there."""
    try:
        return split(load_dataset(config.data), config.data)
    except DataError:
        return None


def references(entry: Entry) -> tuple[str, ...]:
    """The rows to compare with. Methods of tuples have no counterpart in a metric loss on batches of classes."""
    plain = () if entry.config.method.batches.kind == "tuples" else ("undistilled",)
    return ("untrained", *plain, "teacher")


def searched(space: Space, entry: Entry, fixed: Collection[str] = ()) -> Space:
    """What of the table's space the row has; a key that the command line sets is `fixed`."""
    known = flatten(entry.config)
    return {key: searched for key, searched in space.items() if key in known and key not in fixed}


def with_teacher(stated: Definition, options: Options, places: Places, wanted: str) -> Definition:
    """The definition with its teacher as found in the registry. Raises `SweepError` where it has to be trained and may not."""
    if stated.teacher is None:
        return stated
    fingerprint = split(load_dataset(stated.base.data), stated.base.data).fingerprint
    alias = model_alias(config_hash(settled(stated.teacher)), fingerprint)
    trained = [places.trials / job.key for job in teacher_jobs(stated)]
    for place in trained:
        places.storage.refresh(place)
    if all(read_done(place) for place in trained):
        return stated
    # A registered teacher knows one split; folds want one each.
    folds, registered = stated.base.data.folds, places.folder / "registered" / alias
    folder = "" if folds else find_teacher(stated.teacher_name, alias, registered, places.tracking_uri)
    if folder:
        base = replace(stated.base, teacher=replace(stated.base.teacher, checkpoint=folder))
        return replace(stated, base=base, teacher=None)
    if not options.with_teacher:
        raise SweepError(f"{stated.teacher_name!r} is not trained without the validation classes yet: {wanted}")
    return stated

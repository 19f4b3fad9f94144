"""One command: search, then a final stage that can be believed. `sweep(...)` is all that an experiment's script calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from dmkd.config import Config
from dmkd.errors import DmkdError
from sweeps.options import Options, parse
from sweeps.places import find_commit, find_places
from sweeps.plan import Definition, configured
from sweeps.prepare import Prepared, prepare
from sweeps.record import open_record
from sweeps.signals import Terminated
from sweeps.space import Space, Values
from sweeps.teachers import with_given


class Interrupted(Exception):
    """Ctrl-C: everything is saved, `--resume` goes on."""


def sweep(
    name: str,
    base: Config,
    space: Space | None = None,
    *,
    description: str = "",
    references: Sequence[str] = ("untrained", "undistilled", "teacher"),
    points: Sequence[Values] = (),
    teacher: Config | None = None,
    trials: int = 20,
    seeds: int = 3,
    finalists: int = 3,
    sampler: str = "tpe",
    early_stopping: str = "auto",
    arguments: Sequence[str] | None = None,
) -> None:
    """Run the sweep that the command line asks for (`arguments` in its place, for tests).

    Trial 0 is `base`; `points` are further known settings to try first; `teacher` is trained first, on the search's training
    classes, where no teacher.checkpoint is given; `references` are the rows that the final stage adds. Exit status 2 and one line
    for a user's mistake, 130 after Ctrl-C, 1 where a run failed.
    """
    stated = Definition(
        name,
        base,
        space or {},
        description,
        tuple(references),
        tuple(points),
        teacher,
        trials,
        seeds,
        finalists,
        sampler,
        early_stopping,
    )

    def asked() -> list[str]:
        options = parse(name, description, arguments)
        options = with_given(options, find_places(options, options.name or name, make=False))
        return run_sweep(configured(stated, options), options)

    guarded(name, asked)


def guarded(name: str, work: Callable[[], list[str]]) -> None:
    """Do the work of a script. Exit status 2 and one line for a user's mistake, 130 after Ctrl-C, 1 where a run failed."""
    from tracking.errors import TrackingError

    try:
        failures = work()
    except Terminated:
        _stop(name, "terminated; nothing is lost: the same command with --resume goes on", 143)
    except (Interrupted, KeyboardInterrupt):
        _stop(name, "interrupted; nothing is lost: the same command with --resume goes on", 130)
    except (DmkdError, TrackingError) as error:
        _stop(name, str(error), 2)
    if failures:
        _stop(name, f"{len(failures)} failed: {'; '.join(failures[:3])}; --rerun-failed runs them again", 1)


def run_sweep(definition: Definition, options: Options) -> list[str]:
    """Plan, check, and run every stage; what failed, in words. Raises `DmkdError` before Ray starts where it can be known."""
    if options.dry_run:
        from sweeps.dry_run import sweep_lines

        print("\n".join(sweep_lines(definition, options)))
        return []
    places = find_places(options, definition.name)
    prepared = prepare(definition, options)
    for line in prepared.summary(places):
        print(line, file=sys.stderr)
    with places.held():
        record = open_record(places.folder, definition, str(prepared.objectives), options)
        from sweeps.stages import Stages

        stages = Stages(prepared, options, places, record, find_commit(Path(sys.argv[0]).resolve()))
        finished = stages.run()
        if not finished:
            raise Interrupted
        stages.show_report()
    return stages.failures


def _stop(name: str, message: str, status: int) -> NoReturn:
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


__all__ = ["Interrupted", "Prepared", "run_sweep", "sweep"]

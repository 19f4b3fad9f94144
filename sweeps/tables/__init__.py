"""Published tables and figures as sweeps: `run_table(TABLE)` is all that an experiment's script calls.

    TABLE = Table("yu_table1", __doc__, ("yu2019/T1/{dataset}/*",), ("cub200", "cars196"))
    if __name__ == "__main__":
        run_table(TABLE)

The table form trains every printed row as the paper did, with several seeds, and holds the measured numbers against the printed
ones. The search form (`--search`) starts from one of the rows and varies what `Table.space` names, on validation classes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dmkd.errors import SweepError
from sweeps.options import Options, parse
from sweeps.tables.table import Line, Table

__all__ = ["Line", "Table", "run_table"]


def run_table(table: Table, arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks of a table (`arguments` in its place, for tests). Exit statuses as those of `sweep`."""
    from sweeps.sweep import guarded

    guarded(table.name, lambda: _asked(table, arguments))


def _asked(table: Table, arguments: Sequence[str] | None) -> list[str]:
    searched = bool(table.search)
    options = parse(table.name, table.description, arguments, datasets=table.datasets, searched=searched)
    dataset = table.dataset(options.dataset)
    if dataset == "networks":
        from sweeps.tables.costs import run_costs

        return run_costs(table, options)
    check_form(options)
    if options.search:
        from sweeps.tables.search import run_search

        return run_search(table, dataset, options)
    return run_rows(table, dataset, options)


OF_A_SEARCH = ("sampler", "early_stopping", "max_gflops", "hours", "extend", "objective")
"""Options that the table form has no use for: nothing is chosen in it."""


def check_form(options: Options) -> None:
    """Raise `SweepError` for an option of the other form, which would do nothing."""
    of_other = ["rows"] if options.search else OF_A_SEARCH
    wrong = [name for name in of_other if getattr(options, name)]
    if wrong:
        what = "picks rows of the table: leave out --search" if options.search else "is of the search form: add --search"
        raise SweepError(f"--{wrong[0].replace('_', '-')} {what}, or leave it out")


def run_rows(table: Table, dataset: str, options: Options) -> list[str]:
    """The table form; what failed, in words."""
    from sweeps.places import find_commit, find_places
    from sweeps.record import open_settings
    from sweeps.tables.plan import Asked, dry_run, plan_table
    from sweeps.teachers import with_given

    places = find_places(options, options.name or table.title(dataset), make=not options.dry_run)
    asked = Asked(table, dataset, with_given(options, places))
    if options.dry_run:
        print("\n".join(dry_run(asked, places)))
        return []
    planned = plan_table(asked, places)
    for line in asked.summary(planned, places):
        print(line, file=sys.stderr)
    from sweeps.tables.run import TableRun

    with places.held():
        going_on = replace(options, resume=True, trials=None, extend=0)
        record = open_settings(places.folder, asked.name, {"table": table.name, "dataset": dataset}, 0, going_on)
        driver = TableRun(planned, options, places, record, find_commit(Path(sys.argv[0]).resolve()))
        if not driver.run():
            from sweeps.sweep import Interrupted

            raise Interrupted
        driver.show_report()
    return driver.failures

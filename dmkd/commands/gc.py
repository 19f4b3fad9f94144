"""`dmkd gc`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmkd.commands import Add
from dmkd.commands.places import tracked


def add(command: Add) -> None:
    """The parser."""
    gc_ = command("gc", gc, "show, or with --apply delete, the checkpoints that no row and no registered version needs")
    gc_.add_argument("--apply", action="store_true", help="delete what is shown; metrics, params and curves stay")
    gc_.add_argument("--experiment", default=None, metavar="E", help="default: all of them")
    gc_.add_argument(
        "--storage", default="dmkd-output", metavar="PLACE", help="what the sweeps got as --storage (default: %(default)s)"
    )
    tracked(gc_)


def gc(options: argparse.Namespace) -> None:
    """Print each thing that can go, with its size; delete it only if asked to."""
    from sweeps.retention import find_waste

    storage = options.storage if "://" in options.storage else Path(options.storage).expanduser().absolute()
    waste = find_waste(storage, options.tracking_uri, options.experiment)
    for item in waste:
        if options.apply:
            item.delete()
        print(f"{megabytes(item.bytes):>12}  {item.what}")
    total = megabytes(sum(item.bytes for item in waste))
    if not waste:
        print("nothing to free: every checkpoint is needed by a row, a version, or a sweep that is not finished")
    elif options.apply:
        print(f"{total} freed in {len(waste)} places; metrics, params and curves are as they were")
    else:
        print(f"{total} in {len(waste)} places could be freed: dmkd gc --apply does it")


def megabytes(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} B"

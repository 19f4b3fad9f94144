"""`dmkd ...`: the parser, and what becomes of a mistake. The commands are in `dmkd/commands/`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any, NoReturn

from dmkd import __version__
from dmkd.commands import (
    Action,
    compare,
    discover,
    doctor,
    evaluate,
    gc,
    import_teacher,
    published,
    pull,
    registry,
    report,
    reproduce,
    results,
    train,
)
from dmkd.errors import ConfigError, DmkdError, nearest

FAMILIES = (discover, published, train, evaluate, import_teacher, results, report, compare, reproduce, pull, registry, doctor, gc)
"""Each gives its commands by `add(command)`, in the order of `dmkd --help`."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit status 0, or 2 with one clear line on standard error."""
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _expected(error):
            raise
        print(f"dmkd: {error}", file=sys.stderr)
        sys.exit(2)


def _expected(error: Exception) -> bool:
    """A user's mistake or the machine's refusal: one line. Anything else is ours, and shows its traceback."""
    if isinstance(error, (DmkdError, OSError)):
        return True
    tracking = sys.modules.get("tracking.errors")
    return tracking is not None and isinstance(error, tracking.TrackingError)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and name the nearest command or option."""

    def error(self, message: str) -> NoReturn:
        """Raise `ConfigError`."""
        raise ConfigError(f"{_clearer(message)} (`{self.prog} --help` lists what there is)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but for the nearest option in the error about an unknown one."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            typed = unknown[0].split("=")[0]
            known = getattr(options, "known_options", ())
            hint = f": {nearest(typed, known)}" if typed.startswith("-") and known else ""
            raise ConfigError(f"unknown argument {unknown[0]!r}{hint}")
        return options


def _clearer(message: str) -> str:
    """argparse's message about an unknown command, shorter and with the nearest one."""
    found = re.match(r"argument COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message)
    if not found:
        return message
    names = [name.strip(" '") for name in found[2].split(",")]
    return f"unknown command {found[1]!r}: {nearest(found[1], names)}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("dmkd", description="Search for the best small image-embedding network, and believe the number.")
    parser.add_argument("--version", action="version", version=f"dmkd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Action, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    for family in FAMILIES:
        family.add(command)
    for sub in commands.choices.values():
        sub.set_defaults(known_options=tuple(sub._option_string_actions))
    return parser

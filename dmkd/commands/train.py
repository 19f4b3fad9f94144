"""`dmkd train`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.commands import Add
from dmkd.commands.places import folder_of, tracked
from dmkd.errors import ConfigError

if TYPE_CHECKING:
    from dmkd.config import Config
    from dmkd.trainer import Epoch


def add(command: Add) -> None:
    """The parser."""
    train_ = command("train", train, "one trial of the shared trainer, or a row of a paper, without a tracker")
    train_.add_argument("config", nargs="?", default="", metavar="CONFIG.yaml")
    train_.add_argument(
        "--published", default="", metavar="KEY", help="train this row of `dmkd published`; data under $DMKD_DATA"
    )
    train_.add_argument("--teacher", default="", metavar="REF", help="the teacher's checkpoint: a folder, runs:/ID, a row")
    train_.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as in method.temperature=0.5"
    )
    train_.add_argument("--out", default="dmkd-output/train", help="folder for state, checkpoint, metrics (default: %(default)s)")
    train_.add_argument("--resume", action="store_true", help="go on from the state in --out")
    tracked(train_)


def train(options: argparse.Namespace) -> None:
    """Train one configuration into a folder."""
    from dmkd import config as configs
    from dmkd.run import train_into
    from dmkd.space import override

    if bool(options.config) == bool(options.published):
        raise ConfigError("train: wanted one of CONFIG.yaml and --published KEY; `dmkd published` lists the keys")
    changes = _teacher(options) | configs.parse_assignments(options.set)
    notes: tuple[str, ...] = ()
    if options.published:
        config, notes = published_config(options.published, changes)
    else:
        config = override(configs.load(options.config), changes)
    for epoch in train_into(config, Path(options.out), resume=options.resume):
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        notes = ()
        _report(epoch, config)
    print(f"checkpoint in {options.out}/checkpoint; measure it again: dmkd evaluate --checkpoint {options.out}/checkpoint")


def _teacher(options: argparse.Namespace) -> dict[str, Any]:
    if not options.teacher:
        return {}
    return {"teacher.checkpoint": str(folder_of(options.teacher, options.tracking_uri))}


def _report(epoch: Epoch, config: Config) -> None:
    if epoch.number == 0:
        print("nothing is trained (optim.epochs is 0): the network as it is")
    for term in config.method.inactive_terms(epoch.training.plan) if epoch.number == 1 else ():
        print(f"note: {term} can never become active in {epoch.training.plan.iterations} steps", file=sys.stderr)
    scores = {key: value for key, value in epoch.metrics.items() if not key.startswith("cost/")}
    print(
        f"epoch {epoch.number}/{config.optim.epochs}  " + "  ".join(f"{key} {value:.4f}" for key, value in scores.items()),
        flush=True,
    )


def published_config(key: str, changes: dict[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """The configuration of a published row with `changes`, its data under `$DMKD_DATA`; and what is to be said of it.

    Raises `TrackingError` for an unknown key, `ConfigError` where the row is no training or a network that it needs is not given.
    """
    from dmkd.space import override
    from sweeps.papers import recipe
    from sweeps.papers.printed import stated

    made = recipe(key)
    if made.config is None:
        raise ConfigError(f"{key} cannot be trained: {made.reason}")
    config = override(stated(made, validation=False), changes)
    _check_given("--teacher REF", made.teacher, config.teacher.checkpoint)
    _check_given("--set student.checkpoint=DIR", made.start, config.student.checkpoint)
    if not config.data.root and config.data.name in ("folder", "manifest"):
        config = override(config, {"data.root": _root(made.dataset)})
    return config, (f"selection: {made.selection}", *made.notes)


def _root(folder: str) -> str:
    shared = os.environ.get("DMKD_DATA", "")
    if not shared:
        raise ConfigError(f"$DMKD_DATA is not set: this row's pictures lie in $DMKD_DATA/{folder}; or give --set data.root=DIR")
    return str(Path(shared).expanduser() / folder)


def _check_given(option: str, needed: str, given: str) -> None:
    if needed and not given:
        raise ConfigError(
            f"this row needs the network of {needed}: train it first, `dmkd train --published {needed}`, and give {option}"
        )

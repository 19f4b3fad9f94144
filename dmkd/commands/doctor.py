"""`dmkd doctor`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dmkd.commands import Add
from dmkd.errors import ConfigError


def add(command: Add) -> None:
    """The parser."""
    doctor_ = command("doctor", doctor, "check machine, cluster, data, tracker and storage before a night is lost")
    doctor_.add_argument(
        "data",
        nargs="*",
        metavar="NAME[=DIR]",
        help="data sets, as in cars196 or folder=/data/mine (default: those in $DMKD_DATA)",
    )
    doctor_.add_argument(
        "--tracking-uri", default="", metavar="URI", help="default: $MLFLOW_TRACKING_URI, or sqlite:///mlflow.db"
    )
    doctor_.add_argument(
        "--storage", default="", metavar="PLACE", help="what a sweep would get as --storage (default: ./dmkd-output)"
    )
    doctor_.add_argument("--working-dir", default=".", metavar="DIR", help="what a job would upload (default: this folder)")
    doctor_.add_argument("--json", action="store_true")


def doctor(options: argparse.Namespace) -> None:
    """Print a line for each thing that was looked at; exit status 1 where one is not well. What the dead left is closed first."""
    from dmkd.data.datasets import dataset_info
    from sweeps.checks.doctor import Patient, examine
    from sweeps.reaping import told_reaped

    named = [name.partition("=") for name in options.data]
    for name, _, _ in named:
        dataset_info(name)
    if not Path(options.working_dir).is_dir():
        raise ConfigError(f"--working-dir {options.working_dir}: no such folder")
    patient = Patient(
        {name: root and str(Path(root).expanduser().absolute()) for name, _, root in named},
        options.tracking_uri,
        options.storage,
        Path(options.working_dir),
    )
    told_reaped(options.tracking_uri)
    lines = examine(patient)
    if options.json:
        print(json.dumps([{"what": line.what, "ok": line.ok, "text": line.text} for line in lines], indent=2))
    else:
        print("\n".join(map(str, lines)))
    if not all(line.ok for line in lines):
        sys.exit(1)

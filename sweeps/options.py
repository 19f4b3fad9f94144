"""The command line that every sweep script takes."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dmkd.errors import ConfigError, SweepError
from dmkd.latency import read_place
from dmkd.space import nearest
from sweeps.objectives import read_objectives

AUTO = "auto"
"""`--gpus-per-trial`: chosen by a probe (`sweeps.packing`)."""
MORE = (("folds", 2), ("search_seeds", 1))


@dataclass(frozen=True)
class Options:
    """What was typed; `None` (or an empty value) leaves the choice to the script or to the sweep."""

    trials: int | None = None
    epochs: int | None = None
    seeds: int | None = None
    set: tuple[str, ...] = ()
    sampler: str | None = None
    early_stopping: str = ""
    objective: tuple[str, ...] = ()
    folds: int | None = None
    search_seeds: int = 1
    latency_on: str = ""
    warm_start: str = ""
    max_gflops: float | None = None
    hours: float | None = None
    gpu_hours: float | None = None
    gpus_per_trial: float | str | None = None
    """0 to 1, or auto."""
    max_concurrent: int | None = None
    data_root: str = ""
    tracking_uri: str = ""
    storage: str = ""
    name: str = ""
    resume: bool = False
    rerun_failed: bool = False
    extend: int = 0
    with_teacher: bool = False
    dry_run: bool = False
    no_probe: bool = False
    dataset: str = ""
    rows: str = ""
    search: bool = False

    def __post_init__(self) -> None:
        for key, least in (("trials", 1), ("epochs", 1), ("seeds", 1), ("max_concurrent", 1), ("extend", 0), *MORE):
            value = getattr(self, key)
            if value is not None and value < least:
                raise SweepError(f"--{key.replace('_', '-')}: found {value}, wanted {least} or more")
        for key in ("max_gflops", "hours", "gpu_hours"):
            value = getattr(self, key)
            if value is not None and not 0 < value < float("inf"):
                raise SweepError(f"--{key.replace('_', '-')}: found {value}, wanted a finite number above 0")
        share = self.gpus_per_trial
        if share is not None and share != AUTO and (isinstance(share, str) or not 0 <= share <= 1):
            raise SweepError(
                f"--gpus-per-trial: found {share}, wanted 0 to 1 (a trial trains on one GPU or a share of it), or auto"
            )
        read_objectives(self.objective)
        if self.latency_on:
            _check_place(self.latency_on)


def _share(text: str) -> float | str:
    """A number; what is none is left for `Options` to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


def _check_place(text: str) -> None:
    try:
        read_place(text)
    except ConfigError as error:
        raise SweepError(f"--latency-on: {error}") from None


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise SweepError(f"{message}; --help lists every option")


def parser(name: str, description: str, datasets: Sequence[str] = (), searched: bool = False) -> argparse.ArgumentParser:
    """The parser of a sweep script; `description` is the script's docstring.

    A published table has `datasets` to choose from, and says with `searched` whether it has a search form too.
    """
    made = _Parser(prog=name, description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--trials", type=int, metavar="N", help="trials of the search, the paper's setting (trial 0) included")
    add("--epochs", type=int, metavar="N", help="planned epochs of every trial")
    add("--seeds", type=int, metavar="N", help="seeds of each row of the final stage")
    add("--folds", type=int, metavar="N", help="a trial's score is the mean over N class-disjoint folds, each a run of its own")
    add("--search-seeds", type=int, default=1, metavar="N", help="a trial's score is the mean over N seeds too (default: 1)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override the base configuration, as in optim.lr=1e-4")
    add("--sampler", metavar="NAME", help="tpe (default), random, gp, cmaes, grid, qmc")
    add(
        "--early-stopping",
        choices=("auto", "asha", "median", "none"),
        default="",
        help="asha and median insist; auto (default) is asha, and leaves it off when it cannot be fair",
    )
    add(
        "--objective",
        action="append",
        default=[],
        metavar="NAME",
        help="val/METRIC to maximise (default: recall_at_1); again for a cost: gflops, latency, dim, parameters, memory",
    )
    add("--latency-on", default="", metavar="DEVICE:THREADS", help="where latency is measured (default: cpu:1)")
    add("--warm-start", default="", metavar="EXPERIMENT", help="try the best points of an earlier sweep in MLflow first")
    add("--max-gflops", type=float, metavar="X", help="propose no student whose query costs more (a multiply-add counts one)")
    add("--hours", type=float, metavar="H", help="end the search in time to leave room for the final stage")
    add("--gpu-hours", type=float, metavar="H", help="the same for the hours of all GPUs together")
    add(
        "--gpus-per-trial",
        type=_share,
        metavar="G",
        help="GPUs of a trial, 0 to 1 (default: 1 where there is any); auto: a probe finds how many trials a card serves best",
    )
    add("--max-concurrent", type=int, metavar="N", help="trials at once (default: as many as fit)")
    add("--data-root", default="", metavar="DIR", help="the data set's folder (default: $DMKD_DATA/<name>)")
    add("--tracking-uri", default="", metavar="URI", help="MLflow (default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here)")
    add("--storage", default="", metavar="PLACE", help="a folder, or s3://bucket/prefix, of the sweep (default: ./dmkd-output)")
    add("--name", default="", help=f"name of the sweep (default: {name})")
    add("--resume", action="store_true", help="go on with a sweep of this name that was interrupted")
    add("--rerun-failed", action="store_true", help="run the sweep's failed trials once more")
    add("--extend", type=int, default=0, metavar="N", help="N trials more in the same sweep")
    add("--with-teacher", action="store_true", help="train the teachers that are missing first")
    add("--dry-run", action="store_true", help="print the plan, what it costs and what is missing, and stop")
    add("--no-probe", action="store_true", help="with --dry-run: reckon the time, measure nothing")
    if datasets:
        add("--dataset", default="", metavar="NAME", help=f"{', '.join(datasets)} (default: {datasets[0]})")
        add("--rows", default="", metavar="PATTERN", help="only the rows whose name or key fits, as in '*msdf*,none*'")
    if searched:
        add("--search", action="store_true", help="search around the paper's setting instead of training the table")
    return made


def parse(
    name: str,
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    datasets: Sequence[str] = (),
    searched: bool = False,
) -> Options:
    """Options from the command line. Raises `SweepError` for what is unknown, ill-typed or out of range."""
    made = parser(name, description, datasets, searched)
    known, unknown = made.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if unknown:
        names = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Options)]
        raise SweepError(f"unknown option {unknown[0]!r}: {nearest(unknown[0].split('=')[0], names)}")
    values: dict[str, Any] = vars(known) | {"set": tuple(known.set), "objective": tuple(known.objective)}
    return Options(**values)

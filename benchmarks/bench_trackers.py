"""The leaderboard of 5,000 runs x 70 columns where a tracker is no file, against `mlflow.search_runs` on the same one: MLflow's
server as it comes, with dmkd's route, and PostgreSQL.

`$DMKD_BENCH_POSTGRES` is the address of an empty database of that kind (postgresql+psycopg2://user:password@host/name); rows keep
the command, so a password is none of its arguments.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from bench_leaderboard import RUNS, add, board, check
from many_runs import make_database
from ratio import not_measured, record, timed
from served import served

from tracking import run_cache
from tracking.reading import load_runs

KINDS = {"http": (), "route": ("--app-name", "dmkd")}
"""What is measured -> options of `mlflow server`."""
NAMES = {"http": "over HTTP", "route": "over HTTP with dmkd's route"}
POSTGRES, DATABASE = "leaderboard in PostgreSQL, 5,000 runs, cold", "DMKD_BENCH_POSTGRES"
TABLES = ("experiments", "runs", "params", "tags", "metrics", "latest_metrics")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--repeats", type=int, default=5)
    asked.add_argument("--only", choices=(*KINDS, "postgres"))
    options = asked.parse_args()
    runs = int(os.environ.get("DMKD_BENCH_RUNS", RUNS))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DMKD_STATE"] = f"{folder}/state"
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "900")  # of the peer; its 60 s end it on a busy machine
        for kind in KINDS:
            if options.only in (None, kind):
                http(Path(folder), kind, runs, options.repeats)
        if options.only in (None, "postgres") and DATABASE in os.environ:
            postgres(Path(folder), os.environ[DATABASE], runs, options.repeats)
        elif options.only in (None, "postgres"):
            command = f"{DATABASE}=URI python benchmarks/bench_trackers.py --only postgres"
            not_measured(POSTGRES, goal=1 / 25, command=command, why="no database was named")


def peer() -> object:
    import mlflow

    return mlflow.search_runs(search_all_experiments=True, max_results=100_000)


def postgres(folder: Path, uri: str, runs: int, repeats: int) -> None:
    """CPU seconds of this process; what the database takes to answer is its own."""
    import mlflow
    import sqlalchemy as sa

    from tracking.client import connect

    os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = str(folder)
    connect(uri)
    (folder / "postgres").mkdir()
    make_database(folder / "postgres" / "mlflow.db", runs)
    with closing(sqlite3.connect(folder / "postgres" / "mlflow.db")) as source, sa.create_engine(uri).begin() as target:
        for name in TABLES:
            copy(source, target, name)
    mlflow.set_tracking_uri(uri)
    check(load_runs(uri), peer())
    pairs = []
    for _ in range(repeats + 1):
        shutil.rmtree(run_cache.folder_of(uri), ignore_errors=True)
        pairs.append((timed(lambda: board(uri))[1], timed(peer)[1]))
    mine, theirs = zip(*pairs[1:], strict=True)
    record(POSTGRES.replace("5,000", f"{runs:,}"), mine, theirs, peer_name="mlflow.search_runs", goal=1 / 25, clock="cpu")


def copy(source: sqlite3.Connection, target: Any, name: str) -> None:
    """The rows of one table into the other database, whose columns have types of their own."""
    import sqlalchemy as sa

    table = sa.Table(name, sa.MetaData(), autoload_with=target)
    found = source.execute(f"SELECT * FROM {name}" + " WHERE experiment_id > 0" * (name == "experiments"))  # 0 is there
    flags = {column.name for column in table.columns if isinstance(column.type, sa.Boolean)}  # sqlite has numbers for them
    names = [column[0] for column in found.description]
    rows = [{key: bool(value) if key in flags else value for key, value in zip(names, row, strict=True)} for row in found]
    if rows:
        target.execute(table.insert(), rows)


def http(folder: Path, kind: str, runs: int, repeats: int) -> None:
    """CPU seconds, the server's included, in turn."""
    import mlflow

    folder = folder / kind
    folder.mkdir()
    make_database(folder / "mlflow.db", runs)
    with served(folder, *KINDS[kind]) as (uri, server):
        mlflow.set_tracking_uri(uri)

        def ours() -> object:
            shutil.rmtree(run_cache.folder_of(uri), ignore_errors=True)
            return board(uri)

        def warmed() -> object:
            return board(uri)

        answers: dict[str, list[float]] = {"ours": [], "peer": [], "warmed": []}

        def both(run: Callable[[], object]) -> float:
            before = served_seconds(server)
            own, answering = timed(run)[1], served_seconds(server) - before
            answers[run.__name__].append(answering)
            print(f"  {run.__name__}: {own:.2f} s here, {answering:.2f} s of the server")
            return own + answering

        check(load_runs(uri), peer())
        mine, theirs = zip(*[(both(ours), both(peer)) for _ in range(repeats)], strict=True)
        name, shared = f"leaderboard {NAMES[kind]}, {runs:,} runs", {"peer_name": "mlflow.search_runs over HTTP", "clock": "cpu"}
        more = {f"server_{who}": statistics.median(answers[who]) for who in ("ours", "peer")}
        record(f"{name}, cold", mine, theirs, goal=1 / 3, **more, **shared)
        warm = []
        for number in range(runs, runs + repeats):
            add(folder, number)
            warm.append(both(warmed))
        record(f"{name}, after one new run", warm, theirs, goal=1 / 10, **shared)


def served_seconds(server: psutil.Process) -> float:
    """CPU seconds of a server and of its workers."""
    return sum(sum(process.cpu_times()[:2]) for process in (server, *server.children(recursive=True)))


if __name__ == "__main__":
    main()

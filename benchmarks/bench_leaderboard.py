"""The leaderboard of 5,000 runs x 70 columns against `mlflow.search_runs`, from a sqlite database; and how cost grows.

Each side reads in this process, in turn. The peer is measured once in a row where it takes minutes (repetitions: `--repeats`).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
from many_runs import add_runs, make_database
from ratio import alone, record, timed

from tracking import run_cache
from tracking.leaderboard import leaderboard
from tracking.reading import load_runs
from tracking.render import render

RUNS, GROWTH, PEERS = 5000, "1000 10000 50000", 10_000
FINALISTS = 20
"""Rows whose test queries are known in the measurement with paired tests."""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--repeats", type=int, default=5)
    asked.add_argument("--only", choices=("database", "growth"), help="growth: 1,000, 10,000, 50,000 runs, the last ours alone")
    asked.add_argument("--rows", default="", help="of the database, only the rows whose names contain this")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DMKD_STATE"] = f"{folder}/state"
        if options.only == "growth":
            return growth(Path(folder))
        return database(Path(folder), options.repeats, options.rows)


def database(folder: Path, repeats: int, rows: str) -> None:
    """Cold, with and without paired tests, after one new run, warm, and the first 50 rows."""
    import mlflow

    folder = folder / "database"
    folder.mkdir()
    uri = make_database(folder / "mlflow.db", RUNS)
    mlflow.set_tracking_uri(uri)

    def peer() -> object:
        return mlflow.search_runs(search_all_experiments=True, max_results=100_000)

    check(load_runs(uri), peer())

    def compared(name: str, run: Callable[[], object], goal: float, before: Callable[[], object]) -> None:
        """With the peer in turn, since a busy machine's seconds are not those of an hour ago."""
        if rows not in name:
            return
        pairs = []
        for _ in range(repeats + 1):
            before()
            pairs.append((timed(run)[1], timed(peer)[1]))
        mine, theirs = zip(*pairs[1:], strict=True)
        record(name, mine, theirs, peer_name="mlflow.search_runs, cold", goal=goal, clock="cpu")

    def beside_cold(name: str, run: Callable[[], object], before: Callable[[], object]) -> None:
        """Against our own cold reading, in turn."""
        if rows not in name:
            return
        seconds, colds = [], []
        for _ in range(repeats + 1):
            cold()
            colds.append(timed(lambda: load_runs(uri))[1])
            before()
            seconds.append(timed(run)[1])
        record(name, seconds[1:], colds[1:], peer_name="our own cold reading", goal=1 / 10, clock="cpu")

    cold = lambda: shutil.rmtree(run_cache.folder_of(uri), ignore_errors=True)  # noqa: E731
    compared("leaderboard, 5,000 runs, read cold", lambda: load_runs(uri), 1 / 25, cold)
    compared("leaderboard, 5,000 runs, cold", lambda: board(uri), 1 / 25, cold)
    tested = outcomes(load_runs(uri))
    compared(f"the same with paired tests of {FINALISTS} rows", lambda: board(uri, tested), 1 / 25, cold)
    compared("leaderboard, 5,000 runs, nothing new", lambda: board(uri), 1 / 25, lambda: None)
    compared("the first 50 rows, nothing new", lambda: render(board(uri).head(50)), 1 / 50, lambda: None)
    numbers = iter(range(RUNS, RUNS + 100))
    beside_cold("reading after one new run", lambda: load_runs(uri), lambda: add(folder, next(numbers)))
    another = "reading after one new run, by a process that has not read before"
    beside_cold(another, lambda: load_runs(uri), lambda: (add(folder, next(numbers)), run_cache._held.clear()))
    compared("leaderboard after one new run", lambda: board(uri), 1 / 10, lambda: add(folder, next(numbers)))


def board(uri: str, tested: dict[str, pl.DataFrame] | None = None) -> pl.DataFrame:
    """What `dmkd leaderboard` does before it prints."""
    return leaderboard(load_runs(uri), outcomes=tested)


def check(ours: pl.DataFrame, peer: object) -> None:
    """The same runs, with the same values."""
    theirs = pl.from_pandas(peer).sort("run_id")  # type: ignore[arg-type]
    ours = ours.sort("run_id")
    assert ours["run_id"].to_list() == theirs["run_id"].to_list()
    for name in ("metrics.val/recall_at_1", "metrics.test/recall_at_1", "params.method.field07", "tags.dmkd.row"):
        pairs = zip(ours[name].to_list(), theirs[name].to_list(), strict=True)
        assert all(a == b or (a is None and (b is None or np.isnan(b))) for a, b in pairs), name


def outcomes(runs: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Queries of CUB's size (5,924 of 100 classes) for the final runs of the first rows, as those would have stored them."""
    chance = np.random.default_rng(0)
    final = runs.filter(runs["tags.dmkd.stage"] == "final")
    rows = final["tags.dmkd.row"].unique(maintain_order=True).to_list()[:FINALISTS]
    labels = np.sort(chance.integers(0, 100, 5924))
    found = {}
    for run_id, row, score in final.select("run_id", "tags.dmkd.row", "metrics.test/recall_at_1").iter_rows():
        if row in rows:
            hits = np.zeros(5924, bool)
            hits[chance.permutation(5924)[: round(score * 5924)]] = True
            ranks = np.where(hits, 1, 7)
            zeros = np.zeros(5924)
            found[run_id] = pl.DataFrame(
                {"query": np.arange(5924), "label": labels, "first_hit": ranks, "ap": zeros, "ap_at_r": zeros}
            )
    return found


def add(folder: Path, number: int) -> None:
    """One run more in the database."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        (place,) = connection.execute("SELECT experiment_id FROM experiments WHERE name = 'many'").fetchone()
        add_runs(connection, place, range(number, number + 1), random.Random(number))


def growth(folder: Path) -> None:
    """CPU seconds by the number of runs; of the peer where it takes less than minutes."""
    import mlflow

    for runs in (int(count) for count in os.environ.get("DMKD_BENCH_RUNS", GROWTH).split()):
        place = folder / str(runs)
        place.mkdir()
        uri = make_database(place / "mlflow.db", runs)
        cold, warm, theirs = [], [], []
        for _ in range(3):
            shutil.rmtree(run_cache.folder_of(uri), ignore_errors=True)
            cold.append(timed(lambda uri=uri: board(uri))[1])
            warm.append(timed(lambda uri=uri: board(uri))[1])
            if runs <= PEERS:
                mlflow.set_tracking_uri(uri)
                theirs.append(timed(lambda: mlflow.search_runs(search_all_experiments=True, max_results=100_000))[1])
        read = timed(lambda uri=uri: load_runs(uri, fresh=True))[1]
        first, later = statistics.median(cold), statistics.median(warm)
        print(f"{runs:6d} runs: cold {first:.2f} s ({read:.2f} s of it reading), warm {later:.2f} s")
        name, more = f"leaderboard, {runs:,} runs, cold, as it grows", {"clock": "cpu", "warm": later, "reading": read}
        if theirs:
            record(name, cold, theirs, peer_name="mlflow.search_runs, cold", goal=1 / 25, **more)
        else:
            alone(name, cold, **more)
        shutil.rmtree(place)


if __name__ == "__main__":
    main()

"""Reading MLflow's database: beside other experiments, and beside a writer of the same process."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from benchmarks.many_runs import add_runs
from tracking import database as databases
from tracking.client import connect, ensure_experiment
from tracking.places import sqlite_path
from tracking.reading import load_runs

WRITES = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=0) as connection:
    connection.execute("UPDATE runs SET name = name")
"""


def add(uri: str, experiment: str, numbers: range) -> None:
    place = ensure_experiment(uri, experiment)
    with closing(sqlite3.connect(str(sqlite_path(uri)))) as connection, connection:
        add_runs(connection, place, numbers, random.Random(numbers.start))


@pytest.mark.parametrize("others", [1, 60], ids=["few others", "many others"])
def test_the_runs_of_other_experiments_change_nothing(database, others):
    add(database, "mine", range(20))
    alone = load_runs(database, "mine", fresh=True)
    add(database, "other", range(500, 500 + others))
    stranger = connect(database).create_run(ensure_experiment(database, "other"))
    connect(database).log_metric(stranger.info.run_id, "val/nobody_else_has", 0.5)
    connect(database).log_param(stranger.info.run_id, "nobody.else.has", "1")
    assert load_runs(database, "mine").equals(alone)
    assert load_runs(database, "mine", fresh=True).equals(alone)


def test_looking_at_a_database_leaves_this_processs_locks_alone(database):
    """Closing a file takes away all locks that the process has on it: another could then write into an open transaction."""
    add(database, "mine", range(3))
    path = sqlite_path(database)
    assert path is not None
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert databases.version(path)
        refused = subprocess.run([sys.executable, "-c", WRITES, str(path)], capture_output=True, text=True, check=False)
        assert "database is locked" in refused.stderr
        connection.rollback()
    subprocess.run([sys.executable, "-c", WRITES, str(path)], check=True)

"""A tracker with many runs, as sweeps leave it: 70 columns a run, seven searched for every three of the final stage."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

PARAMS, METRICS = 38, 18
"""With the 14 tags of a sweep's run: 70 columns."""
FIRST = 1_700_000_000_000
"""Milliseconds since 1970: the start of the first run."""


def make_database(path: Path, runs: int, seed: int = 0) -> str:
    """A database with MLflow's own tables and `runs` runs in one experiment, "many"; its tracking URI."""
    from tracking.client import connect, ensure_experiment

    uri = f"sqlite:///{path}"
    connect(uri)
    experiment = ensure_experiment(uri, "many")
    with closing(sqlite3.connect(path)) as connection, connection:
        add_runs(connection, experiment, range(runs), random.Random(seed))
    return uri


def add_runs(connection: sqlite3.Connection, experiment: str, numbers: range, chance: random.Random) -> None:
    """Write runs straight into the tables, as MLflow's store does through SQLAlchemy."""
    infos, params, tags, metrics = [], [], [], []
    for number in numbers:
        run_id = f"{chance.getrandbits(128):032x}"
        start = FIRST + 60_000 * number
        infos.append((run_id, f"trial {number}", "FINISHED", start, start + 50_000, "active", f"/nowhere/{run_id}", experiment))
        final = number % 10 >= 7
        configuration = 7 * (number // 10) if final else number
        params += [(f"method.field{place:02}", str((configuration + place) % 7), run_id) for place in range(PARAMS)]
        tags += [(key, value, run_id) for key, value in _tags(number, configuration, final).items()]
        metrics += [(key, chance.random(), start + 40_000, 20, 0, run_id) for key in _metrics(final)]
    connection.executemany(
        "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id, "
        "user_id, source_type, source_name, entry_point_name, source_version) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'somebody', 'UNKNOWN', '', '', '')",
        infos,
    )
    connection.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", params)
    connection.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", tags)
    for table in ("latest_metrics", "metrics"):
        connection.executemany(
            f"INSERT INTO {table} (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)", metrics
        )


def _tags(number: int, configuration: int, final: bool) -> dict[str, str]:
    own = {"stage": "final" if final else "search", "seed": str(number % 10 - 7 if final else 0), "fold": "0"}
    name = f"{configuration:012x}"[::-1]
    own |= {"row": name, "config_hash": name, "method": f"method{configuration % 5}", "protocol": "q" if final else "p"}
    own |= {"sweep": "many", "label": f"trial {configuration}", "data_fingerprint": "d" * 16, "commit": "c" * 40}
    return {f"dmkd.{key}": value for key, value in own.items()} | {
        "mlflow.runName": f"trial {number}",
        "mlflow.user": "somebody",
        "mlflow.parentRunId": "0" * 32,
    }


def _metrics(final: bool) -> list[str]:
    part = "test" if final else "val"
    names = [f"{part}/recall_at_{k}" for k in (1, 2, 4, 8)] + [f"{part}/{name}" for name in ("map", "r_precision", "nmi")]
    names += ["cost/train_seconds", "cost/gpu_seconds", "model/gflops", "model/parameters", "model/dim"]
    return names + [f"train/term{place}" for place in range(METRICS - len(names))]

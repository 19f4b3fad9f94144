"""Which runs of MLflow's sqlite database may have changed since it was looked at last, without reading the others.

`params` and `metrics` only grow: what was written since is behind the last row seen. Rows of `runs` and `tags` are changed in
place: they are digested in blocks, and those of another block are looked at again. What was deleted for good is told by a last
row that is not there any more, or by the number of runs (`tracking.reading`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import Any

Marks = dict[str, Any]
"""What was seen, as JSON holds it: of a growing table its last row, of the others a digest a block."""
GROWING = {
    "params": "run_uuid || ' ' || key || ' ' || value",
    "metrics": "run_uuid || ' ' || key || ' ' || timestamp || ' ' || step || ' ' || value",
}
"""Table -> what identifies its row."""
CHANGING = {
    "runs": (
        256,
        ("run_uuid", "name", "status", "start_time", "end_time", "lifecycle_stage", "experiment_id", "artifact_uri"),
    ),
    "tags": (4096, ("run_uuid", "key", "value")),
}
"""Table -> rows of a block, and what of them is digested, a column at a time: joining those of each row took longer."""
MOST = 20_000
"""Blocks beyond which nothing is noted, so that all is read again: rows so far apart that looking would take longer."""


def take(connection: sqlite3.Connection) -> Marks | None:
    """What the database holds now; None where that would cost more than reading it."""
    lasts = {table: _last(connection, table) for table in (*GROWING, *CHANGING)}
    if any(lasts[table] > MOST * rows for table, (rows, _) in CHANGING.items()):
        return None
    grown = {table: [lasts[table], _identity(connection, table, lasts[table])] for table in GROWING}
    return grown | {table: list(_digests(connection, table, lasts[table])) for table in CHANGING}


def changed(connection: sqlite3.Connection, before: Marks | None, now: Marks | None) -> tuple[set[str], set[str]] | None:
    """Ids of the runs that logged something since, and of those that stand in a changed block; None: it cannot be told."""
    if before is None or now is None:
        return None
    logged: set[str] = set()
    for table in GROWING:
        last, identity = before[table]
        if _identity(connection, table, last) != identity:
            return None
        logged |= _ids(connection, table, last, now[table][0])
    near: set[str] = set()
    for table, (rows, _) in CHANGING.items():
        for place in range(max(len(before[table]), len(now[table]))):
            if before[table][place : place + 1] != now[table][place : place + 1]:
                near |= _ids(connection, table, place * rows, (place + 1) * rows)
    return logged, near


def _last(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()[0])


def _identity(connection: sqlite3.Connection, table: str, row: int) -> str:
    found = connection.execute(f"SELECT {GROWING[table]} FROM {table} WHERE rowid = ?", (row,)).fetchone()
    return str(found[0]) if found else ""


def _digests(connection: sqlite3.Connection, table: str, last: int) -> Iterator[str]:
    rows, columns = CHANGING[table]
    arrays = ", ".join(f"CAST(json_group_array({column}) AS BLOB)" for column in columns)
    query = f"SELECT {arrays} FROM {table} WHERE rowid > ? AND rowid <= ?"
    for start in range(0, last, rows):
        content = connection.execute(query, (start, start + rows)).fetchone()
        yield hashlib.sha256(b"".join(content)).hexdigest()[:32]


def _ids(connection: sqlite3.Connection, table: str, after: int, last: int) -> set[str]:
    query = f"SELECT DISTINCT run_uuid FROM {table} WHERE rowid > ? AND rowid <= ?"
    return {run_id for (run_id,) in connection.execute(query, (after, last))}

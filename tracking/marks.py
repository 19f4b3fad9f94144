"""Which runs of MLflow's sqlite database may have changed since it was looked at last, without reading the others.

`params` and `metrics` only grow: what was written since is behind the last row seen. Rows of `runs` and `tags` are changed in
place: they are digested in blocks, and those of another block are looked at again. What was deleted for good is told by a last
row that is not there any more, or by the number of runs (`tracking.reading`).

Of a tag only the value is digested, for less than half of the cost: MLflow never gives a row to another run or key, and sqlite
gives a number again only at the table's end, where the last rows are known by run and key. Where a block has fewer rows than
it had, something was deleted, and its other rows do not tell of whom: then all is read again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any

Marks = dict[str, Any]
"""What was seen, as JSON holds it: of each table the last row's number; of a growing one what the last row was, of the others
what the last rows were, and of each block how many rows it has and their digest."""
GROWING = {
    "params": "run_uuid || ' ' || key || ' ' || value",
    "metrics": "run_uuid || ' ' || key || ' ' || timestamp || ' ' || step || ' ' || value",
}
"""Table -> what identifies its row."""
CHANGING = {
    "runs": (256, ("name", "status", "start_time", "end_time", "lifecycle_stage", "experiment_id", "artifact_uri")),
    "tags": (4096, ("value",)),
}
"""Table -> rows of a block, and what of them can change and is digested, a column at a time: joining a row's took longer."""
NAMED = {"runs": ("run_uuid",), "tags": ("run_uuid", "key")}
"""What of their rows cannot: it is digested of the last block of rows alone."""
MOST = 20_000
"""Blocks beyond which nothing is noted, so that all is read again: rows so far apart that looking would take longer."""


def take(connection: sqlite3.Connection) -> Marks | None:
    """What the database holds now; None where that would cost more than reading it."""
    lasts = {table: _last(connection, table) for table in (*GROWING, *CHANGING)}
    if any(lasts[table] > MOST * rows for table, (rows, _) in CHANGING.items()):
        return None
    marks: Marks = {table: [lasts[table], _identity(connection, table, lasts[table])] for table in GROWING}
    for table, (rows, columns) in CHANGING.items():
        last = lasts[table]
        blocks = [_digest(connection, table, columns, start, min(start + rows, last)) for start in range(0, last, rows)]
        marks[table] = [last, _names(connection, table, last), blocks]
    return marks


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
    for table in CHANGING:
        last, names, _ = before[table]
        ranges = _changed_rows(connection, table, before[table], now[table])
        if ranges is None or _names(connection, table, last) != names:
            return None
        for first, end in ranges:
            near |= _ids(connection, table, first, end)
    return logged, near


def _changed_rows(connection: sqlite3.Connection, table: str, before: list[Any], now: list[Any]) -> list[tuple[int, int]] | None:
    """Where rows may have changed, as numbers after the first and up to the second; None where some were deleted."""
    rows, columns = CHANGING[table]
    (last, _, was), (_, _, found) = before, now
    ranges = []
    for place in range(max(len(was), len(found))):
        start, end = place * rows, (place + 1) * rows
        if was[place : place + 1] == found[place : place + 1]:
            continue
        if place < len(was):  # what it had then, up to the row that was the last
            count, digest = _digest(connection, table, columns, start, min(end, last))
            if count < was[place][0]:
                return None
            start = last if last < end and digest == was[place][1] else start
        ranges.append((start, end))
    return ranges


def _last(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()[0])


def _identity(connection: sqlite3.Connection, table: str, row: int) -> str:
    found = connection.execute(f"SELECT {GROWING[table]} FROM {table} WHERE rowid = ?", (row,)).fetchone()
    return str(found[0]) if found else ""


def _names(connection: sqlite3.Connection, table: str, last: int) -> list[Any]:
    """A digest of whose the last rows are."""
    return _digest(connection, table, NAMED[table], max(0, last - CHANGING[table][0]), last)


def _digest(connection: sqlite3.Connection, table: str, columns: tuple[str, ...], after: int, last: int) -> list[Any]:
    """How many rows there are, and a digest of their columns."""
    arrays = ", ".join(f"CAST(json_group_array({column}) AS BLOB)" for column in columns)
    query = f"SELECT count(*), {arrays} FROM {table} WHERE rowid > ? AND rowid <= ?"
    count, *content = connection.execute(query, (after, last)).fetchone()
    return [count, hashlib.sha256(b"".join(content)).hexdigest()[:32]]


def _ids(connection: sqlite3.Connection, table: str, after: int, last: int) -> set[str]:
    query = f"SELECT DISTINCT run_uuid FROM {table} WHERE rowid > ? AND rowid <= ?"
    return {run_id for (run_id,) in connection.execute(query, (after, last))}

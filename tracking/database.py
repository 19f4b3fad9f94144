"""Runs straight from MLflow's sqlite file, without importing MLflow, which takes seconds.

sqlite joins the texts of a run into one JSON object, which polars takes apart; numbers travel as numbers, since JSON rounds
them, and nothing else beside them: a row of one number costs Python a third of a row of four values.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking.errors import TrackingError
from tracking.frames import STATE, as_logged, by_key, finite, from_rows, from_tuples

if TYPE_CHECKING:
    import polars as pl

Connection = sqlite3.Connection
EVERYONE = ""
"""In the place of a choice: the runs of every experiment."""
MEMBERS = "SELECT run_uuid FROM runs WHERE experiment_id = :experiment AND lifecycle_stage = 'active'"
CHOSEN = "SELECT value FROM json_each(:chosen)"
_TAGS = "_tags"
MOST_OTHERS = 1.2
"""Runs of the database for each of an experiment, up to which all are read."""
FEW = 200
"""Up to so many runs are read value by value."""
_seen: dict[tuple[int, int], int] = {}
"""Databases looked at beside sqlite: (device, file) -> a descriptor that stays open, since closing one takes from this process
every lock that sqlite holds on the file."""


@contextmanager
def opened(path: Path) -> Iterator[Connection]:
    """A connection that sees one state of the database. Raises `TrackingError` where it is not MLflow's.

    It writes nothing, but may: after a torn write sqlite has to roll back before anybody can read.
    """
    if not path.is_file():
        raise TrackingError(
            f"no runs yet: {path} does not exist; run a sweep, or say where the runs are with MLFLOW_TRACKING_URI"
        )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=30)) as connection:
            connection.execute("BEGIN")
            yield connection
    except sqlite3.Error as error:
        raise TrackingError(f"{path}: not readable as MLflow's database ({error}); wanted the file of sqlite:///...") from None


def version(path: Path) -> list[Any] | None:
    """What changes with every write to the database file; None where this cannot be told."""
    if path.with_name(f"{path.name}-journal").exists():
        return None
    try:
        counter = os.pread(_descriptor(path), 4, 24).hex()
        beside = path.with_name(f"{path.name}-wal")
        stats = [path.stat(), *([beside.stat()] if beside.exists() else [])]
    except OSError:
        return None
    return [counter, *([stat.st_size, stat.st_mtime_ns, stat.st_ino] for stat in stats)]


def _descriptor(path: Path) -> int:
    stat = path.stat()
    place = stat.st_dev, stat.st_ino
    if place not in _seen:
        _seen[place] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return _seen[place]


def experiments(connection: Connection) -> dict[str, str]:
    """The id of every experiment that is not deleted, by name."""
    found = connection.execute("SELECT name, CAST(experiment_id AS TEXT) FROM experiments WHERE lifecycle_stage = 'active'")
    return dict(found.fetchall())


def newest_experiment(connection: Connection) -> str | None:
    """The name of the experiment whose run was started last."""
    query = (
        "SELECT experiments.name FROM runs JOIN experiments USING (experiment_id) WHERE runs.lifecycle_stage = 'active' "
        "AND experiments.lifecycle_stage = 'active' ORDER BY start_time DESC, run_uuid DESC LIMIT 1"
    )
    found = connection.execute(query).fetchone()
    return str(found[0]) if found else None


def counts(connection: Connection) -> dict[str, int]:
    """How many runs of each experiment, by its id, are not deleted."""
    query = "SELECT CAST(experiment_id AS TEXT), count(*) FROM runs WHERE lifecycle_stage = 'active' GROUP BY experiment_id"
    return dict(connection.execute(query).fetchall())


def members(connection: Connection, experiment: str, chosen: Collection[str]) -> set[str]:
    """Which runs are in an experiment and not deleted."""
    given = {"experiment": experiment, "chosen": json.dumps(list(chosen))}
    return {run_id for (run_id,) in connection.execute(f"{MEMBERS} AND run_uuid IN ({CHOSEN})", given)}


def states(connection: Connection, name: str, experiment: str, chosen: Collection[str] | None = None) -> pl.DataFrame:
    """`INFOS`, the state and the tags (as JSON) of the runs of an experiment that are not deleted: all, or those `chosen`.

    The state is that of what is changed in place, a run's row and its tags; of the rest `tracking.marks` tells.
    """
    import polars as pl

    given, inside = {"experiment": experiment}, MEMBERS
    if chosen is not None:
        given, inside = given | {"chosen": json.dumps(list(chosen))}, f"{MEMBERS} AND run_uuid IN ({CHOSEN})"
    text, number = pl.String, pl.Int64
    others = inside if chosen is not None else _cheapest(connection, experiment)
    infos = {"run_id": text, "name": text, "status": text, "start_time": number, "end_time": number, "artifact_uri": text}
    query = f"SELECT run_uuid, name, status, start_time, end_time, artifact_uri FROM runs WHERE run_uuid IN ({inside})"
    frame = from_tuples(connection.execute(query, given), infos).with_columns(
        pl.lit(name).alias("experiment"), pl.lit(str(experiment)).alias("experiment_id")
    )
    tags = _objects(connection, "tags", others, given).rename({"object": _TAGS})
    frame = frame.join(tags, on="run_id", how="left", maintain_order="left")
    state = pl.concat_str([pl.col(column).cast(text).fill_null("") for column in (*infos, _TAGS)], separator="\n")
    return frame.with_columns(state.hash().alias(STATE))


def completed(connection: Connection, experiment: str, found: pl.DataFrame, *, whole: bool) -> pl.DataFrame:
    """The runs of `found` (of `states`) with their params, tags and metrics; `whole`: they are all runs of the experiment."""
    if found.height <= FEW:
        return _few_completed(connection, found)
    given = {"experiment": experiment} if whole else {"chosen": json.dumps(found["run_id"].to_list())}
    inside = _cheapest(connection, experiment) if whole else CHOSEN
    params, tags = _objects(connection, "params", inside, given), found.select("run_id", object=_TAGS).drop_nulls()
    for objects, part in ((params, "params"), (tags, "tags")):
        found = found.join(_unpacked(connection, objects, part), on="run_id", how="left", maintain_order="left")
    metrics = _metrics(connection, inside, given)
    return found.drop(_TAGS).join(metrics, on="run_id", how="left", maintain_order="left")


def _few_completed(connection: Connection, found: pl.DataFrame) -> pl.DataFrame:
    """The same by way of mappings: a few runs are read in a quarter of the time."""
    rows = [row | {"params": {}, "tags": json.loads(row[_TAGS] or "{}"), "metrics": {}} for row in found.to_dicts()]
    of_run, given = {row["run_id"]: row for row in rows}, {"chosen": json.dumps(found["run_id"].to_list())}
    for run_id, key, text in connection.execute(f"SELECT run_uuid, key, value FROM params{_within(CHOSEN)}", given):
        of_run[run_id]["params"][key] = text
    query = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics{_within(CHOSEN)}"
    for run_id, key, value, is_nan in connection.execute(query, given):
        of_run[run_id]["metrics"][key] = finite(value, is_nan)
    return from_rows(rows).with_columns(found[STATE])


def _cheapest(connection: Connection, experiment: str) -> str:
    """Which runs' values to read for all runs of an experiment: where few others are there, it costs more to leave them out."""
    (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    return EVERYONE if runs <= MOST_OTHERS * counts(connection).get(experiment, 0) else MEMBERS


def _within(inside: str) -> str:
    return f" WHERE run_uuid IN ({inside})" if inside else ""


def _objects(connection: Connection, table: str, inside: str, given: dict[str, Any]) -> pl.DataFrame:
    """The keys and values of each run in a table of texts, as one JSON object a run."""
    import polars as pl

    query = f"SELECT run_uuid, json_group_object(key, value) FROM {table}{_within(inside)} GROUP BY run_uuid"
    return from_tuples(connection.execute(query, given), {"run_id": pl.String, "object": pl.String})


def _unpacked(connection: Connection, objects: pl.DataFrame, part: str) -> pl.DataFrame:
    """A column for every key of JSON objects whose values are texts."""
    import polars as pl

    keys = _keys(connection, part)
    if not keys:
        return objects.select("run_id")
    decoded = objects["object"].str.json_decode(pl.Struct(dict.fromkeys(keys, pl.String))).struct.unnest()
    return decoded.rename({key: f"{part}.{key}" for key in keys}).with_columns(objects["run_id"])


def _keys(connection: Connection, table: str) -> list[str]:
    """The keys that any run of the database has."""
    following = f"SELECT min(key) FROM {table} WHERE key > found.key"  # by the index, from key to key: DISTINCT reads every row
    query = (
        f"WITH RECURSIVE found(key) AS (SELECT min(key) FROM {table} UNION ALL SELECT ({following}) FROM found WHERE key NOTNULL)"
    )
    return [key for (key,) in connection.execute(f"{query} SELECT key FROM found WHERE key NOTNULL")]


def _metrics(connection: Connection, inside: str, given: dict[str, Any]) -> pl.DataFrame:
    """A column for every metric of the runs: NaN where NaN was logged, null where nothing was."""
    import polars as pl

    kinds = {"rowid": pl.Int64, "run_uuid": pl.String, "key": pl.String}
    arrays = ", ".join(f"json_group_array({column})" for column in kinds)
    names = connection.execute(f"SELECT {arrays} FROM latest_metrics{_within(inside)}", given).fetchone()
    decoded = (pl.Series([text]).str.json_decode(pl.List(kind)) for text, kind in zip(names, kinds.values(), strict=True))
    rows, runs, keys = (column.explode().drop_nulls() for column in decoded)
    if not rows.len():
        return pl.DataFrame(schema={"run_id": pl.String})
    long = pl.DataFrame({"row": rows, "run_id": runs, "key": keys}).sort("row")  # sqlite promises them no order
    query = f"SELECT CASE WHEN is_nan THEN NULL ELSE value END FROM latest_metrics{_within(inside)} ORDER BY rowid"
    values = pl.Series("value", [value for (value,) in connection.execute(query, given)], pl.Float64)
    return by_key(long.select("run_id", "key", as_logged(values)), "metrics")

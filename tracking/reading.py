"""Runs as a frame, only what changed since the last reading being read again; and what happened to their test queries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking import database, frames, marks, run_cache
from tracking.errors import TrackingError
from tracking.places import absolute_uri, local_folder, sqlite_path
from tracking.server import Server, is_due

if TYPE_CHECKING:
    import polars as pl

MANY = 0.5
"""Where more than this share of an experiment has changed, all of it is read: one pass is faster than many look-ups."""


def load_runs(uri: str, experiment: str | None = None, *, fresh: bool = False) -> pl.DataFrame:
    """One row a run that is not deleted, oldest first; all experiments, or one.

    Columns: `run_id, experiment, experiment_id, name, status, start_time, end_time` (UTC), `artifact_uri`, then `params.<key>`
    and `tags.<key>` (text) and `metrics.<key>` (float64, the last step's value), as `mlflow.search_runs` names them. null: not
    logged; NaN: NaN was logged. Runs that have not changed since the last reading come from a cache; `fresh` reads all of them.
    Raises `TrackingError` when there is no such database, server or experiment.
    """
    import polars as pl

    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    parts = _from_database(uri, path, experiment, fresh) if path else _from_server(uri, experiment, fresh)
    if len(parts) == 1:
        return frames.dated(parts[0])
    return frames.dated(frames.ordered(pl.concat(parts, how="diagonal") if parts else frames.from_rows([])))


def newest_experiment(uri: str) -> str | None:
    """The experiment of the run that was started last, or None without runs; nothing else is read of a database."""
    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    if path is None:
        runs = load_runs(uri)
        return str(runs["experiment"][-1]) if runs.height else None
    with database.opened(path) as connection:
        return database.newest_experiment(connection)


def _chosen(experiment: str | None, known: dict[str, str]) -> dict[str, str]:
    if experiment is None:
        return known
    if experiment not in known:
        names = ", ".join(sorted(name for name in known if name != "Default")) or "none yet"
        raise TrackingError(f"no experiment {experiment!r}; known: {names}")
    return {experiment: known[experiment]}


def _from_database(uri: str, path: Path, experiment: str | None, fresh: bool) -> list[pl.DataFrame]:
    version = database.version(path)  # before the reading: what is written meanwhile is read again next time
    folder = run_cache.folder_of(uri)
    parts, now = [], None
    with database.opened(path) as connection:
        for name, place in _chosen(experiment, database.experiments(connection)).items():
            kept = None if fresh else run_cache.read(folder, place)
            if kept is None or version is None or kept.seen["version"] != version:
                now = now or marks.take(connection)
                frame = _updated(connection, name, place, kept, now)
                seen = {"version": version, "marks": now}
                if kept is not None and frame is kept.frame:
                    run_cache.note(folder, place, kept, seen)
                else:
                    run_cache.write(folder, place, frame, seen)
                parts.append(frame)
            else:
                parts.append(kept.frame)
    return [part for part in parts if part.height] or parts[:1]


def _updated(connection: database.Connection, name: str, place: str, kept: run_cache.Kept | None, now: Any) -> pl.DataFrame:
    """An experiment's runs: what is kept of them, with those that may have changed looked at again; else all of them read.

    The kept frame itself where nothing of it has changed.
    """
    import polars as pl

    told = marks.changed(connection, kept.seen["marks"], now) if kept else None
    if kept is not None and told is not None:
        logged, near = told
        total = database.count(connection, place)
        found = database.states(connection, name, place, logged | near)
        same = set(found.join(kept.frame, on=["run_id", frames.STATE], how="semi")["run_id"]) - logged
        changed = found.filter(~pl.col("run_id").is_in(same))
        rest = kept.frame.filter(~pl.col("run_id").is_in((logged | near) - same))
        if rest.height == kept.frame.height == total and not changed.height and set(rest["experiment"].unique()) <= {name}:
            return kept.frame
        few = changed.height <= MANY * (rest.height + changed.height)
        if few and rest.height + changed.height == total:
            rest = rest.with_columns(pl.lit(name).alias("experiment"))  # an experiment can be renamed
            read = database.completed(connection, place, changed, whole=False)
            return frames.ordered(pl.concat([rest, read], how="diagonal"))
    found = database.states(connection, name, place)
    return frames.ordered(database.completed(connection, place, found, whole=True))


def _from_server(uri: str, experiment: str | None, fresh: bool) -> list[pl.DataFrame]:
    server, folder = Server(uri), run_cache.folder_of(uri)
    parts = []
    for name, place in _chosen(experiment, server.experiments()).items():
        kept = None if fresh else run_cache.read(folder, place)
        if kept is None or is_due(kept.seen):
            frame, seen = server.whole(name, place)
        else:
            frame, seen = server.changed(name, place, kept.frame, kept.seen)
        frame = frames.ordered(frame)
        run_cache.write(folder, place, frame, seen)
        parts.append(frame)
    return [part for part in parts if part.height] or parts[:1]


def load_outcomes(uri: str, runs: pl.DataFrame, artifact: str = "evaluation/queries.parquet") -> dict[str, pl.DataFrame]:
    """What happened to every test query, by run id, for those final runs among `runs` (of `load_runs`) that stored it."""
    import tempfile

    import polars as pl

    found = {}
    if "tags.dmkd.stage" in runs.columns:
        runs = runs.filter(runs["tags.dmkd.stage"] == "final")
    for run_id, place in runs.select("run_id", "artifact_uri").iter_rows():
        folder = local_folder(place)
        if folder is not None:
            if (folder / artifact).is_file():
                found[run_id] = pl.read_parquet(folder / artifact)
            continue
        with tempfile.TemporaryDirectory() as target:
            path = download(uri, run_id, artifact, target)
            if path is not None:
                found[run_id] = pl.read_parquet(path)
    return found


def download(uri: str, run_id: str, artifact: str, target: str) -> str | None:
    """An artifact fetched into the folder `target`: its path, or None where the run has none."""
    from tracking.client import connect, translated

    client = connect(absolute_uri(uri))
    with translated(uri):
        listed = {item.path for item in client.list_artifacts(run_id, os.path.dirname(artifact) or None)}
        return client.download_artifacts(run_id, artifact, target) if artifact in listed else None

"""Runs as a frame, only what changed since the last reading being read again; and what happened to their test queries."""

from __future__ import annotations

import os
from functools import cached_property
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
    parts = []
    with database.opened(path) as connection:
        look = _Look(connection)
        for name, place in _chosen(experiment, database.experiments(connection)).items():
            kept = None if fresh else run_cache.read(folder, place)
            if kept is None or version is None or kept.seen["version"] != version:
                frame, changed = look.at(name, place, kept)
                seen = {"version": version, "marks": look.now}
                if kept is not None and frame is kept.frame:
                    run_cache.note(folder, place, kept, seen)
                else:
                    run_cache.write(folder, place, frame, seen, kept=kept, changed=changed)
                parts.append(frame)
            else:
                parts.append(kept.frame)
    return [part for part in parts if part.height] or parts[:1]


class _Look:
    """What one state of a database holds, looked at no more than once."""

    def __init__(self, connection: database.Connection) -> None:
        self.connection = connection
        self._told: list[tuple[Any, tuple[set[str], set[str]] | None]] = []

    @cached_property
    def now(self) -> marks.Marks | None:
        """The marks to compare with next time."""
        return marks.take(self.connection)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Runs of each experiment."""
        return database.counts(self.connection)

    def since(self, before: marks.Marks | None) -> tuple[set[str], set[str]] | None:
        """`marks.changed`: experiments have mostly been seen at the same time."""
        for known, told in self._told:
            if known == before:
                return told
        self._told.append((before, marks.changed(self.connection, before, self.now)))
        return self._told[-1][1]

    def at(self, name: str, place: str, kept: run_cache.Kept | None) -> tuple[pl.DataFrame, set[str] | None]:
        """An experiment's runs, and which of them are not as they were kept (None: perhaps all).

        What is kept, with the runs that may have changed looked at again; else all are read. Where nothing of it has changed,
        it is the kept frame itself.
        """
        told = self.since(kept.seen["marks"]) if kept else None
        if kept is not None and told is not None and set(kept.frame["experiment"].unique()) <= {name}:  # it can be renamed
            found = self._with_changes(name, place, kept.frame, *told)
            if found is not None and found[0].height == self.counts.get(place, 0):
                return found
        states = database.states(self.connection, name, place)
        return frames.ordered(database.completed(self.connection, place, states, whole=True)), None

    def _with_changes(
        self, name: str, place: str, kept: pl.DataFrame, logged: set[str], near: set[str]
    ) -> tuple[pl.DataFrame, set[str]] | None:
        """The kept runs with what has changed of them, so far as `marks.changed` tells (not that a run is gone for good).

        None where more have changed than it pays to look up.
        """
        import polars as pl

        touched = set(kept["run_id"].filter(kept["run_id"].is_in(logged | near))) if kept.height else set()
        members = database.members(self.connection, place, logged | near)
        if not touched and not members:
            return kept, set()
        found = database.states(self.connection, name, place, members)
        known = kept.select("run_id", frames.STATE).filter(pl.col("run_id").is_in(touched)) if touched else kept.clear()
        same = set(found.join(known, on=["run_id", frames.STATE], how="semi")["run_id"]) - logged
        changed, gone = found.filter(~pl.col("run_id").is_in(same)), touched - same
        if not changed.height and not gone:
            return kept, set()
        if changed.height > MANY * (kept.height - len(gone) + changed.height):
            return None
        rest = kept.filter(~pl.col("run_id").is_in(gone)) if gone else kept
        read = database.completed(self.connection, place, changed, whole=False)
        frame = pl.concat([rest, read], how="diagonal")
        as_wide = not gone and set(read.columns) <= set(rest.columns)
        return frames.oldest_first(frame) if as_wide else frames.ordered(frame), gone | set(changed["run_id"])


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

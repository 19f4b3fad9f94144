"""Runs whose writer died and never comes back are closed by whoever looks next: none stays RUNNING.

A writer lives where its spool's lock is held or its heartbeat goes on; a run that spools because the tracker is away has both.
Only where its spool is not to be seen (it lay on a machine that is gone) the last beat that reached the tracker decides. A run
that was given up wrongly is RUNNING again with its writer's next beat, and a late `sync` gives it its true end.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracking.client import connect, translated
from tracking.courier import recover_all
from tracking.creation import RUN_KEY
from tracking.delivery import HEARTBEAT, REASON, SPOOL
from tracking.heartbeat import Watcher, lost_after
from tracking.places import absolute_uri, is_http, sqlite_path


@dataclass(frozen=True)
class Running:
    """A run that the tracker calls RUNNING."""

    run_id: str
    name: str
    tags: dict[str, str] = field(default_factory=dict)


def reap(uri: str, experiment: str | None = None) -> list[Running]:
    """Close the runs of dead writers (of one experiment, or of all): which. Raises `TrackingError` without a tracker.

    What they left on disk is delivered first. Costs one query where nothing is RUNNING.
    """
    uri = absolute_uri(uri)
    before = [run for run in running(uri, experiment) if RUN_KEY in run.tags]
    for root in sorted({Path(run.tags[SPOOL]).parent for run in before if SPOOL in run.tags}):
        if root.is_dir():
            recover_all(root)
    left = {run.run_id: run for run in running(uri, experiment)} if before else {}
    closed = [run for run in before if run.run_id not in left]
    watcher = Watcher()
    return closed + [run for run in left.values() if RUN_KEY in run.tags and _gone(run, watcher) and _close(uri, run)]


def _gone(run: Running, watcher: Watcher) -> bool:
    """Whether nothing is heard of a run's writer. One whose spool is to be seen here was judged by it already."""
    if HEARTBEAT not in run.tags or (Path(run.tags.get(SPOOL, "")) / "run.json").is_file():
        return False
    beat, _, stamp = run.tags[HEARTBEAT].partition(" ")
    age = time.time() - float(stamp) / 1000
    return watcher.silent(run.run_id, float(beat), age if age > 0 else None)


def _close(uri: str, run: Running) -> bool:
    """KILLED, with the reason, at the time of the last sign."""
    beat, _, stamp = run.tags[HEARTBEAT].partition(" ")
    client = connect(uri)
    with translated(uri):
        found = client.get_run(run.run_id)
        if found.info.status != "RUNNING" or found.data.tags.get(HEARTBEAT) != run.tags[HEARTBEAT]:
            return False  # it spoke, or ended, in between
        reason = f"reaped: its process was not heard of for more than {lost_after():.0f} s after beat {beat}"
        client.set_tag(run.run_id, REASON, reason)
        client.set_terminated(run.run_id, "KILLED", int(stamp))
    return True


def running(uri: str, experiment: str | None = None) -> list[Running]:
    """The RUNNING runs that are not deleted. A sqlite database and a server are asked without importing MLflow."""
    path = sqlite_path(uri)
    if path is not None:
        return _in_sqlite(path, experiment) if path.is_file() else []
    from tracking.server import wants_client

    if is_http(uri) and not wants_client():
        return list(_on_server(uri.rstrip("/"), experiment))
    return list(_by_client(uri, experiment))


def _in_sqlite(path: Path, experiment: str | None) -> list[Running]:
    query = (
        "SELECT run_uuid, runs.name FROM runs JOIN experiments USING (experiment_id) WHERE status = 'RUNNING' "
        "AND runs.lifecycle_stage = 'active' AND coalesce(?, experiments.name) = experiments.name"
    )
    # Not read-only: a writer that was killed in the middle leaves a journal that the next reader has to roll back.
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=30)) as database:
        found = database.execute(query, (experiment,)).fetchall()
        tags = "SELECT key, value FROM tags WHERE run_uuid = ?"
        return [Running(run_id, name, dict(database.execute(tags, (run_id,)))) for run_id, name in found]


def _on_server(uri: str, experiment: str | None) -> Iterator[Running]:
    from tracking.rest import pages

    experiments = [item["experiment_id"] for item in pages(uri, "experiments", {}) if experiment in (None, item["name"])]
    asked = {"experiment_ids": experiments, "filter": "attributes.status = 'RUNNING'"}
    for run in pages(uri, "runs", asked) if experiments else []:
        tags = {item["key"]: item.get("value", "") for item in run.get("data", {}).get("tags", [])}
        yield Running(run["info"]["run_id"], run["info"].get("run_name", ""), tags)


def _by_client(uri: str, experiment: str | None) -> Iterator[Running]:
    client: Any = connect(uri)
    with translated(uri):
        wanted = [found.experiment_id for found in client.search_experiments() if experiment in (None, found.name)]
        for run in client.search_runs(wanted, "attributes.status = 'RUNNING'", max_results=1000) if wanted else []:
            yield Running(run.info.run_id, run.info.run_name or "", dict(run.data.tags))

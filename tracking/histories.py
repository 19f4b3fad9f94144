"""Metrics of runs epoch by epoch, as a frame: `run_id, key, step, value`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tracking import database
from tracking.frames import finite
from tracking.places import absolute_uri, sqlite_path

if TYPE_CHECKING:
    import polars as pl


def load_histories(uri: str, run_ids: Sequence[str], keys: Sequence[str]) -> pl.DataFrame:
    """Every step of these metrics of these runs, in order of run, metric and step; a step that was logged twice counts once.

    Raises `TrackingError` as `load_runs` does.
    """
    import polars as pl

    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    rows = _from_database(path, run_ids, keys) if path is not None else _by_client(uri, run_ids, keys)
    schema = {"run_id": pl.String, "key": pl.String, "step": pl.Int64, "value": pl.Float64}
    frame = pl.DataFrame(list(rows), schema=schema, orient="row")
    return frame.unique(["run_id", "key", "step"], keep="last", maintain_order=True).sort("run_id", "key", "step")


def _from_database(path: Any, run_ids: Sequence[str], keys: Sequence[str]) -> Iterable[tuple[str, str, int, float]]:
    query = (
        "SELECT run_uuid, key, step, value, is_nan FROM metrics WHERE run_uuid IN (SELECT value FROM json_each(?)) "
        "AND key IN (SELECT value FROM json_each(?)) ORDER BY timestamp"
    )
    with database.opened(path) as connection:
        rows = connection.execute(query, (json.dumps(list(run_ids)), json.dumps(list(keys)))).fetchall()
    return [(run_id, key, step, finite(value, is_nan)) for run_id, key, step, value, is_nan in rows]


def _by_client(uri: str, run_ids: Sequence[str], keys: Sequence[str]) -> Iterator[tuple[str, str, int, float]]:
    from tracking.client import connect, translated

    client = connect(uri)
    with translated(uri):
        for run_id in run_ids:
            logged = client.get_run(run_id).data.metrics
            for key in keys:
                if key in logged:
                    yield from (
                        (run_id, key, point.step, finite(point.value)) for point in client.get_metric_history(run_id, key)
                    )

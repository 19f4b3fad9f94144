"""Runs as a frame. A sqlite file is read directly and a server over HTTP, both without importing MLflow, which takes seconds.

NaN is 0.0 with a flag in MLflow's tables, and an infinity the largest float: both come back as what was logged.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking.errors import TrackingError
from tracking.places import absolute_uri, is_http, local_folder, sqlite_path

if TYPE_CHECKING:
    import polars as pl

LARGEST = 1.7976931348623157e308
"""What MLflow's database holds in the place of an infinity."""
_PAGE = 1000


@dataclass
class _Row:
    info: dict[str, Any]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def load_runs(uri: str, experiment: str | None = None) -> pl.DataFrame:
    """One row a run that is not deleted, oldest first; all experiments, or one.

    Columns: `run_id, experiment, experiment_id, name, status, start_time, end_time` (UTC), `artifact_uri`, then `params.<key>`
    and `tags.<key>` (text) and `metrics.<key>` (float64, the last step's value), as `mlflow.search_runs` names them. null: not
    logged; NaN: NaN was logged. Raises `TrackingError` when there is no such database, server or experiment.
    """
    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    if path is not None:
        rows = _from_sqlite(path, experiment)
    elif is_http(uri) and not _wants_client():
        rows = _from_server(uri.rstrip("/"), experiment)
    else:
        rows = _from_client(uri, experiment)
    return _frame(sorted(rows, key=lambda row: (row.info["start_time"] or 0, row.info["run_id"])))


def _frame(rows: list[_Row]) -> pl.DataFrame:
    import polars as pl

    infos = ["run_id", "experiment", "experiment_id", "name", "status", "start_time", "end_time", "artifact_uri"]
    times = ("start_time", "end_time")
    columns = [pl.Series(key, [row.info[key] for row in rows], pl.Int64 if key in times else pl.String) for key in infos]
    for part, dtype in (("params", pl.String), ("tags", pl.String), ("metrics", pl.Float64)):
        values = [getattr(row, part) for row in rows]
        for key in sorted(set().union(*values)):
            columns.append(pl.Series(f"{part}.{key}", [value.get(key) for value in values], dtype))
    return pl.DataFrame(columns).with_columns(pl.from_epoch(pl.col(*times), time_unit="ms").dt.replace_time_zone("UTC"))


def _finite(value: float, is_nan: object = False) -> float:
    """The value that was logged."""
    if is_nan or math.isnan(value):
        return math.nan
    return value if abs(value) < LARGEST else math.copysign(math.inf, value)


def _unknown(experiment: str, names: Iterable[str]) -> TrackingError:
    known = ", ".join(sorted(name for name in names if name != "Default")) or "none yet"
    return TrackingError(f"no experiment {experiment!r}; known: {known}")


def _from_sqlite(path: Path, experiment: str | None) -> list[_Row]:
    if not path.is_file():
        raise TrackingError(
            f"no runs yet: {path} does not exist; run a sweep, or say where the runs are with MLFLOW_TRACKING_URI"
        )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=30)) as connection:
            connection.execute("BEGIN")  # one snapshot for the five queries
            return _query(connection, experiment)
    except sqlite3.Error as error:
        raise TrackingError(f"{path}: not readable as MLflow's database ({error}); wanted the file of sqlite:///...") from None


def _query(connection: sqlite3.Connection, experiment: str | None) -> list[_Row]:
    names = dict(connection.execute("SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = 'active'"))
    if experiment is not None and experiment not in names:
        raise _unknown(experiment, names)
    chosen = (
        "FROM runs JOIN experiments USING (experiment_id) WHERE runs.lifecycle_stage = 'active' "
        "AND experiments.lifecycle_stage = 'active' AND coalesce(:experiment, experiments.name) = experiments.name"
    )
    given = {"experiment": experiment}
    infos = ["run_id", "experiment", "experiment_id", "name", "status", "start_time", "end_time", "artifact_uri"]
    found = connection.execute(
        "SELECT run_uuid, experiments.name, CAST(experiment_id AS TEXT), runs.name, status, start_time, end_time, artifact_uri "
        + chosen,
        given,
    )
    rows = {values[0]: _Row(dict(zip(infos, values, strict=True))) for values in found}
    inside = f"WHERE run_uuid IN (SELECT run_uuid {chosen})"
    for part in ("params", "tags"):
        for run_id, key, value in connection.execute(f"SELECT run_uuid, key, value FROM {part} {inside}", given):
            getattr(rows[run_id], part)[key] = value
    for run_id, key, value, is_nan in connection.execute(
        f"SELECT run_uuid, key, value, is_nan FROM latest_metrics {inside}", given
    ):
        rows[run_id].metrics[key] = _finite(value, is_nan)
    return list(rows.values())


def _wants_client() -> bool:
    """Whether the user set a way to log in that only MLflow's client knows."""
    ours = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"}
    return any(name.startswith("MLFLOW_TRACKING_") and name not in ours for name in os.environ)


def _from_server(uri: str, experiment: str | None) -> list[_Row]:
    experiments = {item["experiment_id"]: item["name"] for item in _pages(uri, "experiments", {})}
    if experiment is not None:
        if experiment not in experiments.values():
            raise _unknown(experiment, experiments.values())
        experiments = {key: name for key, name in experiments.items() if name == experiment}
    rows = []
    for run in _pages(uri, "runs", {"experiment_ids": list(experiments)}) if experiments else []:
        info, data = run["info"], run.get("data", {})
        row = _Row(
            _info(info, experiments),
            *({item["key"]: item.get("value", "") for item in data.get(part, [])} for part in ("params", "tags")),
        )
        row.metrics = {item["key"]: _finite(float(item.get("value", 0.0))) for item in data.get("metrics", [])}
        rows.append(row)
    return rows


def _info(info: dict[str, Any], experiments: dict[str, str]) -> dict[str, Any]:
    same = {key: info.get(key) for key in ("run_id", "experiment_id", "status", "start_time", "end_time", "artifact_uri")}
    return same | {"experiment": experiments[info["experiment_id"]], "name": info.get("run_name")}


def _pages(uri: str, kind: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        page = _post(
            f"{uri}/api/2.0/mlflow/{kind}/search", body | {"max_results": _PAGE} | ({"page_token": token} if token else {})
        )
        yield from page.get(kind, [])
        if not (token := page.get("next_page_token", "")):
            return


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | _authorization()
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        raise TrackingError(f"tracking server {url}: HTTP {error.code} {error.reason}; check the address and the login") from None
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"tracking server {url} does not answer ({error}); is it running, and is MLFLOW_TRACKING_URI right?"
        ) from None


def _authorization() -> dict[str, str]:
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _from_client(uri: str, experiment: str | None) -> list[_Row]:
    """Any other store (PostgreSQL, a server with its own login) through MLflow's client."""
    from tracking.client import connect, translated

    client = connect(uri)
    with translated(uri):
        experiments = {str(item.experiment_id): item.name for item in _all(client.search_experiments)}
        if experiment is not None and experiment not in experiments.values():
            raise _unknown(experiment, experiments.values())
        wanted = [key for key, name in experiments.items() if experiment in (None, name)]
        runs = _all(client.search_runs, experiment_ids=wanted) if wanted else []
        return [
            _Row(
                _info(dict(run.info) | {"experiment_id": str(run.info.experiment_id)}, experiments),
                dict(run.data.params),
                dict(run.data.tags),
                {key: _finite(value) for key, value in run.data.metrics.items()},
            )
            for run in runs
        ]


def _all(search: Any, **given: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(**given, max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


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
            path = _download(uri, run_id, artifact, target)
            if path is not None:
                found[run_id] = pl.read_parquet(path)
    return found


def _download(uri: str, run_id: str, artifact: str, target: str) -> str | None:
    from tracking.client import connect, translated

    client = connect(absolute_uri(uri))
    with translated(uri):
        listed = {item.path for item in client.list_artifacts(run_id, os.path.dirname(artifact) or None)}
        return client.download_artifacts(run_id, artifact, target) if artifact in listed else None

"""MLflow's client, made so that it neither waits for minutes nor races with the other processes of a sweep."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from tracking.errors import TrackingError
from tracking.places import is_http, locked, sqlite_path

# MLflow's own 7 retries block a call for four minutes when the server is away; the spool is our retry.
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""Environment of this process that `connect` sets where the user has not."""


class Unreachable(TrackingError):
    """The tracking server does not answer, or asks to try again later."""


CREATION = 30.0
"""Seconds to wait for one's turn to make a run in a sqlite database; after that the run spools, and is made later."""


@contextlib.contextmanager
def creation_lock(uri: str) -> Iterator[None]:
    """For sqlite a lock beside the database, held while tables or runs are made; nothing for a server, which has its own.

    Raises `Unreachable` where many others are before us.
    """
    path = sqlite_path(uri)
    with contextlib.ExitStack() as held:
        try:
            if path is not None:
                held.enter_context(locked(path.with_name(f"{path.name}.lock"), CREATION))
        except TrackingError as error:
            raise Unreachable(str(error)) from None
        yield


_clients: dict[tuple[int, str], Any] = {}


def connect(uri: str) -> Any:
    """This process's `MlflowClient` of a database that has its tables (a fresh sqlite file is migrated once, whoever is first).

    Raises `Unreachable` when the server has never answered.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    path, place = sqlite_path(uri), (os.getpid(), uri)
    if place not in _clients or (path and not path.exists()):
        _clients[place] = _new_client(uri)
    return _clients[place]


def _new_client(uri: str) -> Any:
    from mlflow import MlflowClient

    with translated(uri), creation_lock(uri):
        path = sqlite_path(uri)
        if path is not None and not path.exists():
            _make_database(path)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _make_database(path: Path) -> None:
    """A database with its tables, there whole or not at all: a process that is ended in the middle leaves none that is half made.

    Its tables take seconds, and sqlite commits each of them; a later MLflow would stop at the first that it finds again.
    """
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own each time: MLflow keeps an engine for every address that this process has ever opened.
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    uri = f"sqlite:///{beside}"
    client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    client._tracking_client.store.engine.dispose()
    beside.replace(path)


@contextlib.contextmanager
def translated(uri: str) -> Any:
    """Turn MLflow's exceptions into `Unreachable` (worth another try) or `TrackingError` (not), each one line."""
    from mlflow.exceptions import MlflowException, RestException

    try:
        yield
    except MlflowException as error:
        text = " ".join(str(error).split())[:300]
        passing = error.error_code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
        no_answer = is_http(uri) and not isinstance(error, RestException) and error.error_code == "INTERNAL_ERROR"
        if passing or no_answer or getattr(error, "get_http_status_code", lambda: 0)() in (502, 503, 504):
            raise Unreachable(f"tracking server {uri} does not answer: {text}") from None
        raise TrackingError(f"tracking server {uri} refused: {text}") from error
    except (ConnectionError, TimeoutError) as error:
        raise Unreachable(f"tracking server {uri} does not answer: {error}") from None


def ensure_experiment(uri: str, experiment: str, artifact_location: str | None = None) -> str:
    """The id of an experiment, made if there is none; safe when several processes ask at once.

    A new one of a sqlite database keeps its artifacts beside the database, in `mlartifacts/<experiment>`; a server keeps
    them where the server says; any other database wants `artifact_location` (or `$MLFLOW_DEFAULT_ARTIFACT_ROOT`).
    Raises `TrackingError` for a deleted experiment or a missing location, `Unreachable` without a server.
    """
    return find_or_make_experiment(connect(uri), uri, experiment, artifact_location)


def find_or_make_experiment(client: Any, uri: str, experiment: str, artifact_location: str | None = None) -> str:
    """`ensure_experiment` with a client at hand."""
    with translated(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            found = _make_experiment(client, uri, experiment, artifact_location)
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {experiment!r} is deleted; `mlflow experiments restore -x {found.experiment_id}`, or another name"
        )
    return str(found.experiment_id)


def _make_experiment(client: Any, uri: str, experiment: str, artifact_location: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    location = artifact_location or _artifact_location(uri, experiment)
    try:
        client.create_experiment(experiment, artifact_location=location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.get_experiment_by_name(experiment)


def _artifact_location(uri: str, experiment: str) -> str | None:
    if is_http(uri):
        return None
    slug = re.sub(r"[^\w.-]+", "-", experiment).strip(".-") or "experiment"
    if root := os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        return f"{root.rstrip('/')}/{slug}"
    path = sqlite_path(uri)
    if path is None:
        raise TrackingError(
            f"tracking URI {uri}: a database needs $MLFLOW_DEFAULT_ARTIFACT_ROOT (a folder or s3://...) for the artifacts"
        )
    return (path.parent / "mlartifacts" / slug).as_uri()

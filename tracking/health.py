"""Whether a tracker can be used from this process: it answers, and so does the store of its artifacts."""

from __future__ import annotations

import os
import urllib.parse

from tracking.client import connect, translated
from tracking.errors import TrackingError
from tracking.places import absolute_uri, local_folder, sqlite_path

SECONDS = "30"
"""How long an answer may take."""


def check_tracker(uri: str) -> None:
    """Ask the tracker for one experiment, and its artifact store for a listing. Raises `TrackingError` with what is wrong."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", SECONDS)
    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        _check_writable(str(path.parent), uri)
        return
    client = connect(uri)
    with translated(uri):
        found = client.search_experiments(max_results=1)
    for experiment in found:
        check_artifacts(experiment.artifact_location, uri)


def check_artifacts(location: str, uri: str) -> None:
    """Whether this process can read an artifact location of the tracker `uri`. Raises `TrackingError` with what is wrong."""
    folder = local_folder(location)
    if folder is not None:
        _check_writable(str(folder), uri)
        return
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        get_artifact_repository(location, tracking_uri=uri).list_artifacts("dmkd-doctor")
    except ImportError as error:
        raise TrackingError(f"artifacts of {uri} lie in {_shown(location)}, and {error}: install it on every node") from None
    except Exception as error:  # each store has exceptions of its own
        text = " ".join(str(error).split())[:200]
        raise TrackingError(
            f"artifacts of {uri} lie in {_shown(location)}, which does not answer ({text}): "
            "give the nodes its credentials by their environment, or start the server with --serve-artifacts"
        ) from None


def _shown(location: str) -> str:
    """Without a password that an address may hold."""
    parsed = urllib.parse.urlsplit(location)
    return parsed._replace(netloc=parsed.netloc.rpartition("@")[2]).geturl()


def _check_writable(folder: str, uri: str) -> None:
    """The folder, or the nearest one above it that exists."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.access(folder, os.W_OK):
        raise TrackingError(f"{uri}: {folder} cannot be written; choose another place with --tracking-uri")

"""A tracking server asked over REST, without importing MLflow; by one request where it has dmkd's route (`tracking.app`)."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tracking.conditions import Condition
from tracking.errors import TrackingError
from tracking.frames import are_runs, finite, from_rows

if TYPE_CHECKING:
    import polars as pl

PAGE = 1000
ROUTE = "/dmkd/runs"
"""Where `tracking.app` answers with runs as an Arrow file: MLflow's own search makes and prints an object for each value."""
ARROW = "application/vnd.apache.arrow.file"


class Rest:
    """What a tracking server tells. Raises `TrackingError` without an answer."""

    def __init__(self, uri: str) -> None:
        self.uri, self._at_once = uri.rstrip("/"), True

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name."""
        return {item["name"]: item["experiment_id"] for item in pages(self.uri, "experiments", {})}

    def runs(self, experiment: str, asked: Condition | None = None, deleted: bool = False) -> pl.DataFrame:
        """The runs of an experiment that are not deleted (or are), all or those `asked` for, as `tracking.frames` has them."""
        found = _at_once(self.uri, experiment, asked, deleted) if self._at_once else None
        self._at_once = found is not None
        return from_rows(_by_page(self.uri, experiment, asked, deleted)) if found is None else found


def _at_once(uri: str, experiment: str, asked: Condition | None, deleted: bool) -> pl.DataFrame | None:
    """Runs from dmkd's route; None where the server has none, does not let us, or says anything else."""
    import io
    import urllib.parse
    import urllib.request

    import polars as pl

    query = urllib.parse.urlencode({"experiment_id": experiment, "deleted": int(deleted), "asked": json.dumps(asked)})
    request = urllib.request.Request(f"{uri}{ROUTE}?{query}", headers=authorization())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.headers.get_content_type() != ARROW:
                return None
            frame = pl.read_ipc(io.BytesIO(answer.read()))
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return None  # MLflow's own search says what is wrong
    return frame if are_runs(frame) else None


def _by_page(uri: str, experiment: str, asked: Condition | None, deleted: bool) -> Iterator[dict[str, Any]]:
    view = "DELETED_ONLY" if deleted else "ACTIVE_ONLY"
    for run in pages(uri, "runs", {"experiment_ids": [experiment], "filter": str(asked or ""), "run_view_type": view}):
        data, info = run.get("data", {}), run["info"]
        params, tags = ({item["key"]: item.get("value", "") for item in data.get(part, [])} for part in ("params", "tags"))
        metrics = {item["key"]: finite(float(item.get("value", 0.0))) for item in data.get("metrics", [])}
        yield info | {"name": info.get("run_name"), "params": params, "tags": tags, "metrics": metrics}


def wants_client() -> bool:
    """Whether the user set a way to log in that only MLflow's client knows."""
    ours = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"}
    return any(name.startswith("MLFLOW_TRACKING_") and name not in ours for name in os.environ)


def pages(uri: str, kind: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that a search of MLflow's REST API (`kind`: experiments, runs) finds, page by page."""
    token = ""
    while True:
        page = _post(
            f"{uri}/api/2.0/mlflow/{kind}/search", body | {"max_results": PAGE} | ({"page_token": token} if token else {})
        )
        yield from page.get(kind, [])
        if not (token := page.get("next_page_token", "")):
            return


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    import urllib.error  # they, and ssl, take as long to import as a warm board to make, which most often needs no server
    import urllib.request

    headers = {"Content-Type": "application/json"} | authorization()
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


def authorization() -> dict[str, str]:
    """The header that logs in with the user's name and password, or token."""
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}

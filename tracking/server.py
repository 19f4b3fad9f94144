"""Runs from a tracking server: over REST without importing MLflow, or through MLflow's client where only that one can log in.

A server cannot be asked what has changed. So a run that has ended is believed not to change any more, but for what dmkd itself
writes on this machine (the next reading is then a full one) and what is deleted; after `FULL_EVERY` seconds all are read again.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tracking.errors import TrackingError
from tracking.frames import finite, from_rows
from tracking.places import is_http

if TYPE_CHECKING:
    import polars as pl

PAGE = 1000
FULL_EVERY = 3600.0
SLACK = 600_000
"""Milliseconds by which the clocks of machines that write runs may differ."""
ENDED = ("FINISHED", "FAILED", "KILLED")

Run = dict[str, Any]
Search = Callable[..., Iterable[Run]]
"""`search(experiment_id, filter="", deleted=False)`: runs as mappings of `INFOS` and `params`, `tags`, `metrics`."""


class Server:
    """What is read of one tracking server (or of a database that only MLflow's client can open)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.search: Search = self._over_rest if is_http(uri) and not wants_client() else self._by_client

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name. Raises `TrackingError` without an answer."""
        if self.search == self._over_rest:
            return {item["name"]: item["experiment_id"] for item in pages(self.uri, "experiments", {})}
        from tracking.client import connect, translated

        client = connect(self.uri)
        with translated(self.uri):
            return {item.name: str(item.experiment_id) for item in _all(client.search_experiments)}

    def runs(self, name: str, experiment: str, chosen: str = "", *, deleted: bool = False) -> pl.DataFrame:
        """The runs of an experiment that are not deleted (or are), those that a filter of MLflow's chooses."""
        return from_rows(run | {"experiment": name} for run in self.search(experiment, chosen, deleted))

    def changed(self, name: str, experiment: str, kept: pl.DataFrame, seen: Any) -> tuple[pl.DataFrame, Any]:
        """`kept`, the runs of the last reading, with those that are new, or had not ended, or are restored; and what was seen."""
        import polars as pl

        gone = self.runs(name, experiment, deleted=True)["run_id"].to_list()
        open_runs = kept.filter(~pl.col("status").is_in(ENDED))["run_id"].to_list()
        asked = [*_recent(kept), *_by_id([*open_runs, *sorted(set(seen["gone"]) - set(gone))])]
        fresh = [self.runs(name, experiment, chosen) for chosen in asked]
        found = pl.concat([part for part in fresh if part.height] or fresh[:1], how="diagonal").unique("run_id", keep="last")
        rest = kept.filter(~pl.col("run_id").is_in([*found["run_id"].to_list(), *gone]))
        return pl.concat([rest, found], how="diagonal"), seen | {"gone": gone}

    def whole(self, name: str, experiment: str) -> tuple[pl.DataFrame, Any]:
        """All runs of an experiment, and what was seen."""
        gone = self.runs(name, experiment, deleted=True)["run_id"].to_list()
        return self.runs(name, experiment), {"gone": gone, "read": time.time()}

    def _over_rest(self, experiment: str, chosen: str = "", deleted: bool = False) -> Iterator[Run]:
        body = {"experiment_ids": [experiment], "filter": chosen, "run_view_type": "DELETED_ONLY" if deleted else "ACTIVE_ONLY"}
        for run in pages(self.uri, "runs", body):
            data = run.get("data", {})
            params, tags = ({item["key"]: item.get("value", "") for item in data.get(part, [])} for part in ("params", "tags"))
            metrics = {item["key"]: finite(float(item.get("value", 0.0))) for item in data.get("metrics", [])}
            yield _info(run["info"]) | {"params": params, "tags": tags, "metrics": metrics}

    def _by_client(self, experiment: str, chosen: str = "", deleted: bool = False) -> Iterator[Run]:
        from tracking.client import connect, translated

        client = connect(self.uri)
        asked = {"experiment_ids": [experiment], "filter_string": chosen, "run_view_type": 2 if deleted else 1}
        with translated(self.uri):
            for run in _all(client.search_runs, **asked):
                metrics = {key: finite(value) for key, value in run.data.metrics.items()}
                yield _info(dict(run.info)) | {"params": dict(run.data.params), "tags": dict(run.data.tags), "metrics": metrics}


def is_due(seen: Any) -> bool:
    """Whether it is time to read all runs again."""
    return not isinstance(seen, dict) or not 0 <= time.time() - seen.get("read", 0) <= FULL_EVERY


def _recent(kept: pl.DataFrame) -> list[str]:
    """Filters that find what was started or ended since, or is not over (a run may arrive long after its start)."""
    started, ended = (int(kept[name].max() or 0) - SLACK for name in ("start_time", "end_time"))  # type: ignore[arg-type]
    open_ones = [f"attributes.status = '{status}'" for status in ("RUNNING", "SCHEDULED")]
    return [f"attributes.start_time >= {started}", f"attributes.end_time >= {ended}", *open_ones]


def _by_id(run_ids: list[str]) -> Iterator[str]:
    for start in range(0, len(run_ids), 100):
        quoted = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + 100])
        yield f"attributes.run_id IN ({quoted})"


def _info(info: dict[str, Any]) -> Run:
    same = {key: info.get(key) for key in ("run_id", "status", "start_time", "end_time", "artifact_uri")}
    return same | {"experiment_id": str(info["experiment_id"]), "name": info.get("run_name")}


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


def _all(search: Any, **given: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(**given, max_results=PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return

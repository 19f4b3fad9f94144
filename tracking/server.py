"""Runs from what cannot be asked what has changed: a tracking server, another database than sqlite, MLflow's client where only
that one can log in.

So a run that has ended is believed not to change any more, but for what dmkd itself writes on this machine (the next reading is
then a full one) and what is deleted; after `FULL_EVERY` seconds all are read again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from tracking.conditions import Condition
from tracking.frames import finite, from_rows
from tracking.places import is_http
from tracking.rest import PAGE, Rest
from tracking.sql import Sql, is_sql

if TYPE_CHECKING:
    import polars as pl

FULL_EVERY = 3600.0
SLACK = 600_000
"""Milliseconds by which the clocks of machines that write runs may differ."""
ENDED = ("FINISHED", "FAILED", "KILLED")


class Source(Protocol):
    """Who is asked for runs. Raises `TrackingError` without an answer."""

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name."""

    def runs(self, experiment: str, asked: Condition | None = None, deleted: bool = False) -> pl.DataFrame:
        """An experiment's runs (its id given) that are not deleted (or are), all or those `asked` for; see `tracking.frames`."""


class Client:
    """MLflow's own client as a source."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name."""
        from tracking.client import connect, translated

        client = connect(self.uri)
        with translated(self.uri):
            return {item.name: str(item.experiment_id) for item in _all(client.search_experiments)}

    def runs(self, experiment: str, asked: Condition | None = None, deleted: bool = False) -> pl.DataFrame:
        """See `Source`."""
        from tracking.client import connect, translated

        client = connect(self.uri)
        wanted = {"experiment_ids": [experiment], "filter_string": str(asked or ""), "run_view_type": 2 if deleted else 1}
        with translated(self.uri):
            return from_rows([_row(run) for run in _all(client.search_runs, **wanted)])


class Server:
    """What is read of one tracking server, or of a database that it could stand before."""

    def __init__(self, uri: str) -> None:
        self.source = _source(uri)

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name. Raises `TrackingError` without an answer."""
        return self.source.experiments()

    def runs(self, name: str, experiment: str, asked: Condition | None = None, *, deleted: bool = False) -> pl.DataFrame:
        """The runs of an experiment that are not deleted (or are), all or those asked for."""
        import polars as pl

        return self.source.runs(experiment, asked, deleted).with_columns(pl.lit(name).alias("experiment"))

    def changed(self, name: str, experiment: str, kept: pl.DataFrame, seen: Any) -> tuple[pl.DataFrame, Any]:
        """`kept`, the runs of the last reading, with those that are new, or had not ended, or are restored; and what was seen."""
        import polars as pl

        gone = self.runs(name, experiment, deleted=True)["run_id"].to_list()
        open_runs = kept.filter(~pl.col("status").is_in(ENDED))["run_id"].to_list()
        asked = [*_recent(kept), *_by_id([*open_runs, *sorted(set(seen["gone"]) - set(gone))])]
        fresh = [self.runs(name, experiment, condition) for condition in asked]
        found = pl.concat([part for part in fresh if part.height] or fresh[:1], how="diagonal").unique("run_id", keep="last")
        rest = kept.filter(~pl.col("run_id").is_in([*found["run_id"].to_list(), *gone]))
        return pl.concat([rest, found], how="diagonal"), seen | {"gone": gone}

    def whole(self, name: str, experiment: str) -> tuple[pl.DataFrame, Any]:
        """All runs of an experiment, and what was seen."""
        gone = self.runs(name, experiment, deleted=True)["run_id"].to_list()
        return self.runs(name, experiment), {"gone": gone, "read": time.time()}


def is_due(seen: Any) -> bool:
    """Whether it is time to read all runs again."""
    return not isinstance(seen, dict) or not 0 <= time.time() - seen.get("read", 0) <= FULL_EVERY


def wants_client() -> bool:
    """Whether the user set a way to log in that only MLflow's client knows."""
    ours = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"}
    return any(name.startswith("MLFLOW_TRACKING_") and name not in ours for name in os.environ)


def _source(uri: str) -> Source:
    if is_sql(uri):
        return Sql.at(uri)
    return Rest(uri) if is_http(uri) and not wants_client() else Client(uri)


def _recent(kept: pl.DataFrame) -> list[Condition]:
    """What finds runs that were started or ended since, or are not over (a run may arrive long after its start)."""
    since = [Condition(name, int(kept[name].max() or 0) - SLACK) for name in ("start_time", "end_time")]  # type: ignore[arg-type]
    return [*since, *(Condition("status", status) for status in ("RUNNING", "SCHEDULED"))]


def _by_id(run_ids: list[str]) -> Iterator[Condition]:
    for start in range(0, len(run_ids), 100):
        yield Condition("run_id", tuple(run_ids[start : start + 100]))


def _row(run: Any) -> dict[str, Any]:
    """A run of MLflow's client as `tracking.frames` takes it."""
    metrics = {key: finite(value) for key, value in run.data.metrics.items()}
    info = dict(run.info)
    named = {"name": info.get("run_name"), "experiment_id": str(info["experiment_id"])}
    return info | named | {"params": dict(run.data.params), "tags": dict(run.data.tags), "metrics": metrics}


def _all(search: Any, **given: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(**given, max_results=PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return

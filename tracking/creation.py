"""A run made once, whoever asks, and found by its key; under its parent, whichever of the two reached the server first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RUN_KEY, PARENT, PARENT_KEY = "dmkd.run_key", "mlflow.parentRunId", "dmkd.parent_key"
"""Tags: a run's own key; its parent's id; the key of a parent that the server did not have when the run was made."""
MOST = 1000


def find_or_make(client: Any, experiment: str, header: Mapping[str, Any]) -> tuple[Any, bool]:
    """The run of a spool's header, and whether it was made here. Of racing creators the earliest run stays."""
    if found := earliest(client, experiment, header["key"]):
        return found, False
    tags = {RUN_KEY: header["key"]} | _parent(client, experiment, header["parent_id"], header.get("parent_key"))
    made = client.create_run(experiment, start_time=header["start_time"], tags=tags, run_name=header["name"])
    first = earliest(client, experiment, header["key"]) or made
    if first.info.run_id == made.info.run_id:
        _adopt(client, experiment, header["key"], made.info.run_id)
        return made, True
    client.delete_run(made.info.run_id)
    return first, False


def earliest(client: Any, experiment: str, key: str) -> Any:
    """The run with this key that began first (the one rule by which racing creators agree), or None."""
    query = f"tags.`{RUN_KEY}` = '{key}'"
    runs = client.search_runs([experiment], filter_string=query, max_results=10, order_by=["attributes.start_time ASC"])
    return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)


def _parent(client: Any, experiment: str, known: str | None, key: str | None) -> dict[str, str]:
    """The tag that names a run's parent; where the server does not have it yet, the one by which it finds the run later."""
    if known or not key:
        return {PARENT: known} if known else {}
    found = earliest(client, experiment, key)
    return {PARENT: str(found.info.run_id)} if found else {PARENT_KEY: key}


def _adopt(client: Any, experiment: str, key: str, run_id: str) -> None:
    """A run that was just made is the parent of those that were made before it and wait for it."""
    for child in client.search_runs([experiment], filter_string=f"tags.`{PARENT_KEY}` = '{key}'", max_results=MOST):
        if PARENT not in child.data.tags:
            client.set_tag(child.info.run_id, PARENT, run_id)


def late_parent(client: Any, run: Any) -> dict[str, str]:
    """The tag for a parent that came between a run's look for it and its making; empty where nothing is missing."""
    tags = run.data.tags
    if PARENT in tags or PARENT_KEY not in tags:
        return {}
    found = earliest(client, run.info.experiment_id, tags[PARENT_KEY])
    return {PARENT: str(found.info.run_id)} if found else {}

"""The journal of a model's alias: every promotion and rollback, with who, when, from, to, metrics, gate, and its gallery.

Each entry is a tag of its own on the registered model: a tag holds 5000 characters in a database, and two people who promote at
the same time lose no entry of each other's.
"""

from __future__ import annotations

import getpass
import json
import socket
from typing import Any
from uuid import uuid4

from tracking.client import connect, translated
from tracking.errors import TrackingError
from tracking.places import absolute_uri, default_uri
from tracking.spool import now_ms

TAG = "dmkd.journal."
"""Followed by the alias, the time in milliseconds, and something that no other entry has."""
OLD = "dmkd.history."
"""A whole journal in one tag, as written before there were gates; still read."""
LONGEST = 5000
"""Characters that MLflow's table takes."""
FORGOTTEN_FIRST = ("metrics", "gate")
"""Of an entry that would be longer, what is left out, in this order."""


def journal(name: str, alias: str = "champion", uri: str | None = None) -> list[dict[str, Any]]:
    """Every promotion and rollback of an alias, oldest first. Raises `TrackingError` for an unknown model."""
    uri = absolute_uri(uri) if uri else default_uri()
    client = connect(uri)
    with translated(uri):
        tags = client.get_registered_model(name).tags
    old: list[dict[str, Any]] = json.loads(tags.get(OLD + alias, "[]"))
    start = f"{TAG}{alias}."
    return old + [json.loads(tags[key]) for key in sorted(tags) if key.startswith(start)]


def note(client: Any, name: str, alias: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Write an entry, with the time and who this is; returns it as it was written."""
    entry = entry | {"time": now_ms(), "who": who()}
    for key in FORGOTTEN_FIRST:
        if len(json.dumps(entry)) > LONGEST:
            entry[key] = "too long for the journal"
    client.set_registered_model_tag(name, f"{TAG}{alias}.{entry['time']:013d}.{uuid4().hex[:6]}", json.dumps(entry))
    return entry


def who() -> str:
    """The user and the machine of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def stack(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The promotions that an alias would fall back through, newest last: one puts itself on top, a rollback takes it off."""
    past: list[dict[str, Any]] = []
    for entry in entries:
        if entry["act"] == "rollback":
            del past[-1:]
        elif past and past[-1]["version"] == entry["version"]:
            past[-1] = entry
        else:
            past.append(entry)
    return past


def deployed(name: str, alias: str = "champion", uri: str | None = None) -> dict[str, Any] | None:
    """The promotion that an alias stands on now; its "gallery" names the network that embedded the gallery. None: there is none.

    Raises `TrackingError` where the tracker refuses; an unknown model has nothing deployed.
    """
    uri = absolute_uri(uri) if uri else default_uri()
    client = connect(uri)
    with translated(uri):
        if not client.search_registered_models(f"name = '{name}'"):
            return None
    past = stack(journal(name, alias, uri))
    return past[-1] if past else None


def check_names(name: str, alias: str) -> None:
    """Raise `TrackingError` for what MLflow, or a REF, could not spell."""
    import re

    if not re.fullmatch(r"[\w. -]{1,100}", name) or not re.fullmatch(r"[\w-]{1,100}", alias):
        raise TrackingError(
            f"model name {name!r}, alias {alias!r}: wanted letters, digits, '-', '_' (in a name also '.' and spaces)"
        )

"""Test looks at a run after its end: `dmkd evaluate` of its checkpoint on test classes counts on the run as its own does."""

from __future__ import annotations

from tracking import run_cache
from tracking.client import connect, translated
from tracking.places import absolute_uri, default_uri
from tracking.registry import run_of

LOOKS = "test_looks"
"""The metric of a run."""


def count_look(ref: str, uri: str | None = None) -> int:
    """Add one to the looks of the run whose checkpoint `ref` names (as in `registry.pull`, no folder); how many there are now.

    Raises `TrackingError` where it names no run, or the tracker refuses.
    """
    uri = absolute_uri(uri) if uri else default_uri()
    run_id = run_of(ref, uri)
    client = connect(uri)
    with translated(uri):
        past = client.get_metric_history(run_id, LOOKS)
        count = int(max((entry.value for entry in past), default=0)) + 1
        client.log_metric(run_id, LOOKS, count, step=max((entry.step for entry in past), default=0) + 1)
    run_cache.forget(uri)
    return count

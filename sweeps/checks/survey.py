"""Ask every node of the cluster, at once, by a task that takes no CPU: a busy cluster answers too."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.checks.node import Asked, Report, now, report

SECONDS = 180.0
"""A node that has not answered by then is reported as silent."""
PINGS = 4


@dataclass(frozen=True)
class Answer:
    """What was heard from one node: a report, or the reason why there is none."""

    node: str
    """Its host and the begin of Ray's id."""
    gpus: float
    """What Ray was told that the node has."""
    report: Report | None = None
    reason: str = ""
    ahead: float = 0.0
    """Seconds by which its clock is ahead of the driver's."""
    doubt: float = 0.0
    """Half of the shortest round trip: how far `ahead` may be wrong."""


def live_nodes() -> list[dict[str, Any]]:
    """Ray's own entries of the nodes that live."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in found if node["Alive"]]


def survey(asked: Asked, seconds: float = SECONDS) -> list[Answer]:
    """The answers of all live nodes, in a stable order."""
    nodes = sorted(live_nodes(), key=lambda node: str(node["NodeID"]))
    with _token(asked) as told:
        pending = {_on(node, report).remote(told): node for node in nodes}
        done = ray.wait(list(pending), num_returns=len(pending), timeout=seconds)[0]
        return [_heard(node, task, task in done, seconds) for task, node in pending.items()]


def node_name(node: dict[str, Any]) -> str:
    """What a person knows a node by: the name that it was started with, or its host; its address; Ray's id."""
    name, address = node.get("NodeName"), str(node["NodeManagerAddress"])
    return f"{node['NodeManagerHostname'] if name in (None, address) else name} ({address}, {str(node['NodeID'])[:6]})"


def _on(node: dict[str, Any], function: Any) -> Any:
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=place)


def _heard(node: dict[str, Any], task: Any, done: bool, seconds: float) -> Answer:
    answer = Answer(node_name(node), float(node["Resources"].get("GPU", 0.0)))
    if not done:
        ray.cancel(task, force=True)
        return replace(answer, reason=f"it did not answer within {seconds:.0f} s: it is overloaded, or cannot be reached")
    try:
        found: Report = ray.get(task)
        ahead, doubt = _clock(node)
    except Exception as error:  # a worker that dies, or cannot import, raises a dozen classes
        return replace(answer, reason=_reason(error))
    return replace(answer, report=found, ahead=ahead, doubt=doubt)


def _clock(node: dict[str, Any]) -> tuple[float, float]:
    """By the exchange with the shortest way there and back, as NTP does."""
    asking, best = _on(node, now), (0.0, float("inf"))
    for _ in range(PINGS):
        started, sent = time.monotonic(), time.time()
        there = ray.get(asking.remote(), timeout=30)
        trip = time.monotonic() - started
        if trip / 2 < best[1]:
            best = (there - sent - trip / 2, trip / 2)
    return best


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "No module named" in text:
        module = text.partition("No module named")[2].split()[0].strip("'\"")
        return f"its Python cannot import {module}: start Ray there in the project's root with the environment active"
    return f"its worker ended: {text[:300]}"


@contextmanager
def _token(asked: Asked) -> Iterator[Asked]:
    """With a file in the storage, for as long as the nodes look for it."""
    if not asked.storage or "://" in asked.storage:
        yield asked
        return
    folder, name = Path(asked.storage), f".dmkd-{uuid.uuid4().hex}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("", encoding="ascii")
    try:
        yield replace(asked, token=name)
    finally:
        (folder / name).unlink(missing_ok=True)

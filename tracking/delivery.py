"""From the spool to MLflow, in order and exactly once, whoever delivers: the writing process, a later one, or `sync`.

Three things make a repetition harmless: a run is found by its key before it is made, a point keeps the time stamp that it was
spooled with (MLflow stores an equal point once), and a step that a continued run already has is not sent again.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tracking import datasets
from tracking.client import Unreachable, connect, creation_lock, find_or_make_experiment, translated
from tracking.creation import find_or_make, late_parent
from tracking.errors import Superseded, TrackingError
from tracking.spool import Spool, now_ms

WRITER = "dmkd.writer"
SPOOL = "dmkd.spool"
"""Where the run's writer spools: who sees that folder can tell whether the writer lives."""
HEARTBEAT = "dmkd.heartbeat"
"""The writer's last beat that reached the tracker, `<number> <milliseconds since 1970>`: for those who do not see the folder."""
REASON = "dmkd.status_reason"
TAKEN_OVER = "another process has taken it over; this one stops writing it"
MAX_VALUE = 6000
"""Longest param value that MLflow stores."""
_BATCH = 100
_METRICS = 1000
_log = logging.getLogger("tracking")


class Sender:
    """Delivers one spool, one thread at a time. `allowed`, where it is known, says whether the run is still this process's."""

    def __init__(self, spool: Spool, allowed: Callable[[], bool] | None = None) -> None:
        self.spool, self.uri = spool, str(spool.header["uri"])
        self.allowed = allowed
        self.run_id: str | None = None
        self.client: Any = None
        self._continued = self._ended = False
        self._known: dict[str, set[int]] = {}

    def open(self, *, live: bool) -> str:
        """Find the run by its key, or make it; its id. `live`: this process goes on writing it, so it is RUNNING again.

        Raises `Unreachable` without a server, `Superseded` where it is to go on and is another's.
        """
        self.client = connect(self.uri)
        with translated(self.uri):
            if live:
                self._check_allowed()
            with creation_lock(self.uri):
                run, made = self._find_or_make()
            self._continued = not made
            self._send_params(run)
            # Without a writer it was made by a call whose answer was lost, and has no tags yet: the writer's is the last of them.
            ours = made or live or WRITER not in run.data.tags
            tags = self.spool.header["tags"] if ours else {}
            self._send_tags(run.info.run_id, tags | (self._beat() if live else {}) | (self._own() if ours else {}))
            if live and not made:
                self.client.update_run(run.info.run_id, status="RUNNING")
        self.run_id = str(run.info.run_id)
        return self.run_id

    def _find_or_make(self) -> tuple[Any, bool]:
        experiment = find_or_make_experiment(self.client, self.uri, self.spool.header["experiment"])
        return find_or_make(self.client, experiment, self.spool.header)

    def _own(self) -> dict[str, str]:
        return {SPOOL: str(self.spool.folder), WRITER: self.spool.name}

    def _check_allowed(self) -> None:
        if self.allowed is not None and not self.allowed():
            raise Superseded(f"run {self.run_id or self.spool.header['key']}: {TAKEN_OVER}")

    def _is_ours(self, tags: dict[str, str]) -> bool:
        """Whether no other process writes the run: as `allowed` has it, else as the tag of the last who opened it.

        A late process may have looked before we took the run over, and have set its tags after ours: they are put right.
        """
        if tags.get(WRITER, self.spool.name) == self.spool.name:
            return True
        if self.allowed is None or not self.allowed():
            return False
        self._send_tags(str(self.run_id), self._own())
        return True

    def _beat(self) -> dict[str, str]:
        heart = self.spool.heart
        return {HEARTBEAT: f"{heart.beat} {now_ms()}"} if heart else {}

    def beat(self) -> None:
        """Tell the server that this process lives; a run that was given up meanwhile is RUNNING again.

        Raises `Superseded` where another process has taken the run over, `Unreachable` without a server.
        """
        if self._ended:
            return
        with translated(self.uri):
            run = self.client.get_run(self.run_id)
            if not self._is_ours(run.data.tags):
                raise Superseded(f"run {self.run_id}: {TAKEN_OVER}")
            self._send_tags(str(self.run_id), self._beat() | ({REASON: ""} if REASON in run.data.tags else {}))
            if run.info.status != "RUNNING":
                self.client.update_run(self.run_id, status="RUNNING")

    def _send_params(self, run: Any) -> None:
        """A run keeps the params it was made with; only what it lacks is added."""
        wanted, stored = self.spool.header["params"], run.data.params
        changed = sorted(key for key, value in wanted.items() if stored.get(key, value) != value)
        if changed:
            was = ", ".join(f"{key}={stored[key]} (now {wanted[key]})" for key in changed[:3])
            _log.warning("run %s is continued with other params, the first are kept: %s", run.info.run_id, was)
        from mlflow.entities import Param

        for chunk in _chunks(((key, value) for key, value in wanted.items() if key not in stored), _BATCH):
            self.client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in chunk])

    def _send_tags(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        for chunk in _chunks(tags.items(), _BATCH):
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in chunk])

    def deliver(self) -> bool:
        """Send what waits, one round; whether there was anything. Raises `Unreachable`; what the server refuses is set aside.

        Raises `Superseded`, and sends nothing, where the run is no longer this process's to write.
        """
        waiting = self.spool.pending()
        for offset, events in _merged(waiting):
            self._check_allowed()
            try:
                self._send(events)
            except Unreachable:
                raise
            except (TrackingError, OSError) as error:
                self._send_singly(events, error)
            self.spool.delivered(offset, events[-1])
        return bool(waiting)

    def _send_singly(self, events: list[dict[str, Any]], error: Exception) -> None:
        for event in events:
            try:
                if len(events) == 1:
                    raise error
                self._send([event])
            except Unreachable:
                raise
            except (TrackingError, OSError) as reason:
                _log.warning(
                    "%s: one event was refused and set aside in %s: %s", self.spool.header["name"], self.spool.folder, reason
                )
                self.spool.reject(event, str(reason))

    def _send(self, events: list[dict[str, Any]]) -> None:
        first = events[0]
        with translated(self.uri):
            if "metrics" in first:
                self._send_metrics(events)
            elif "artifact" in first:
                self._send_artifact(self.spool.folder / first["artifact"], first["folder"])
            elif "tags" in first:
                self._send_tags(str(self.run_id), first["tags"])
            elif "dataset" in first:
                datasets.send(self.client, self.uri, str(self.run_id), first["dataset"])
            elif "status" in first:
                self._finish(first["status"], first["reason"], first["time"])

    def _send_metrics(self, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, value, event["time"], event["step"])
            for event in events
            for key, value in event["metrics"].items()
            if not self._has(key, event["step"])
        ]
        for chunk in _chunks(points, _METRICS):
            self.client.log_batch(self.run_id, metrics=list(chunk))

    def _has(self, key: str, step: int) -> bool:
        """Whether a run that was begun elsewhere already had this step when we took it over."""
        if not self._continued:
            return False
        if key not in self._known:
            self._known[key] = {point.step for point in self.client.get_metric_history(self.run_id, key)}
        return step in self._known[key]

    def _send_artifact(self, path: Path, folder: str) -> None:
        if not path.exists():  # a crash between the upload and the note of it
            return
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder or path.name)
        else:
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def _finish(self, status: str, reason: str, end_time: int) -> None:
        self._ended = True
        run = self.client.get_run(self.run_id)
        tags = run.data.tags
        if not self._is_ours(tags):
            return  # another process has continued the run since: its end is not ours to write
        self._send_tags(str(self.run_id), late_parent(self.client, run))
        if reason or REASON in tags:
            self._send_tags(str(self.run_id), {REASON: reason})
        self.client.set_terminated(self.run_id, status, end_time)

    def recover(self) -> None:
        """Deliver an abandoned spool to its end; a run that its process left open becomes KILLED. Raises `Unreachable`."""
        self.open(live=False)
        while self.deliver():
            pass
        self._close_orphan()
        self.spool.remove()

    def _close_orphan(self) -> None:
        with translated(self.uri):
            run = self.client.get_run(self.run_id)
            if run.info.status == "RUNNING" and run.data.tags.get(WRITER) == self.spool.name:
                last = self.spool.folder / "events.jsonl"
                end = int(last.stat().st_mtime * 1000) if last.exists() else None
                self._finish("KILLED", "the process ended without closing the run", end or self.spool.header["start_time"])


def _merged(waiting: list[tuple[int, dict[str, Any]]]) -> Iterable[tuple[int, list[dict[str, Any]]]]:
    """Neighbouring metrics travel together; every other event alone. The offset is that of a group's last event."""
    groups = itertools.groupby(enumerate(waiting), key=lambda item: "metrics" if "metrics" in item[1][1] else item[0])
    for _, group in groups:
        members = [member for _, member in group]
        yield members[-1][0], [event for _, event in members]


def _chunks(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk

"""A run being written: everything goes to its spool at once, and from there to the tracker."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tracking import datasets
from tracking.courier import Courier
from tracking.delivery import Sender
from tracking.errors import TrackingError
from tracking.spool import Spool

STATUSES = ("FINISHED", "FAILED", "KILLED")
_METRIC = re.compile(r"[\w\-. :]+(/[\w\-. :]+)*")


class Run:
    """A run being written. Made by `tracking.runs`; every method returns at once, except `finish`."""

    def __init__(self, spool: Spool, sender: Sender, patience: float) -> None:
        self._spool, self._sender = spool, sender
        self._courier = Courier(sender, patience)
        self._courier.start()
        self._waited = False
        self.finished = False
        """Whether the end of the run was written."""

    @property
    def id(self) -> str | None:
        """MLflow's run id; None as long as the server has not been reached."""
        return self._sender.run_id

    @property
    def key(self) -> str:
        """The key by which the run is found again."""
        return str(self._spool.header["key"])

    @property
    def superseded(self) -> bool:
        """Whether another process has taken the run over: what this one adds is not sent."""
        return self._courier.superseded

    def log(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        """Metrics of one step, NaN and infinities too. Raises `TrackingError` for a name that MLflow would refuse.

        `time_ms` repeats a point with the stamp that it had: MLflow stores an equal point once.
        """
        for name in metrics:
            if not _METRIC.fullmatch(name) or len(name) > 250 or {".", ".."} & set(name.split("/")):
                raise TrackingError(
                    f"metric name {name!r}: wanted at most 250 letters, digits, '_-. :' and single slashes, as in val/recall_at_1"
                )
        event = {"metrics": {name: float(value) for name, value in metrics.items()}, "step": int(step)}
        self._append(event if time_ms is None else event | {"time": time_ms})

    def log_artifact(self, path: Path | str, folder: str = "") -> None:
        """Store a file in `folder`; of a directory its content, in `folder` or its own name. Copied now, sent later."""
        path = Path(path)
        if not path.exists():
            raise TrackingError(f"{path}: no such file or folder to log")
        self._append({"artifact": self._spool.keep(path, path.name), "folder": _inside(folder)})

    def log_text(self, text: str, name: str) -> None:
        """Store `text` as the artifact `name`, which may contain folders."""
        place = PurePosixPath(_inside(name))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / place.name
            path.write_text(text, encoding="utf-8")
            self.log_artifact(path, "" if str(place.parent) == "." else str(place.parent))

    def log_dataset(self, name: str, digest: str, context: str, *, source: str, profile: Mapping[str, object]) -> None:
        """A data set as MLflow's run input, once however often it is told. Raises `TrackingError` for an unknown context."""
        self._append(datasets.event(name, digest, context, source, profile))

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; a later value replaces an earlier one."""
        self._append({"tags": {key: str(value) for key, value in tags.items()}})

    def finish(self, status: str = "FINISHED", reason: str = "", patience: float | None = None) -> bool:
        """End the run and wait, within bounds, for the server to have it; whether it has (else `sync` sends the rest).

        `patience`: seconds to wait, where the run's own are too many. A second call waits no more.
        """
        waited, self._waited = self._waited, True
        self.end(status, reason)
        return self._courier.close(0 if waited else patience)

    def end(self, status: str = "FINISHED", reason: str = "") -> None:
        """Write the end of the run to disk, without waiting for the server: FINISHED, FAILED or KILLED. The first end counts."""
        if status not in STATUSES:
            raise TrackingError(f"status {status!r}: wanted one of {', '.join(STATUSES)}")
        if not self.finished:
            self._append({"status": status, "reason": " ".join(reason.split())[:500]})
            self.finished = True

    def _append(self, event: dict[str, Any]) -> None:
        if self.finished:
            raise TrackingError(f"run {self.key!r} is finished: nothing can be added")
        self._spool.append(event)
        self._courier.poke()


def _inside(name: str) -> str:
    if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
        raise TrackingError(f"artifact path {name!r}: wanted a relative path with forward slashes that stays inside the run")
    return name.strip("/")

"""`dmkd doctor`: machine, cluster, data, tracker and storage, looked at from where they are needed, before a night is lost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmkd.data import Data
from dmkd.errors import SweepError
from sweeps.checks.diagnosis import Line, node_lines
from sweeps.checks.node import Asked
from sweeps.checks.nodes import ONE_MACHINE, SQLITE
from sweeps.checks.survey import survey
from sweeps.checks.upload import upload_line
from sweeps.cluster import connect, disconnect
from sweeps.options import Options
from sweeps.places import find_places


@dataclass(frozen=True)
class Patient:
    """What a sweep would use."""

    data: Mapping[str, str]
    """{data set: its root, or "" for $DMKD_DATA/<name>}; none: those that lie in $DMKD_DATA."""
    tracking_uri: str = ""
    storage: str = ""
    folder: Path = Path()
    """What `ray job submit --working-dir` would upload."""


def examine(patient: Patient) -> list[Line]:
    """Every line. Starts a local Ray where no cluster is found. Raises nothing that the patient suffers from."""
    lines = [upload_line(patient.folder)]
    data = dict(patient.data) or found_data()
    if not data:
        lines.append(Line("data", True, "no data set named, none in $DMKD_DATA: `dmkd doctor NAME` looks at one"))
    try:
        places = find_places(Options(storage=patient.storage, tracking_uri=patient.tracking_uri), "doctor", make=False)
    except SweepError as error:
        return [*lines, Line("storage", False, str(error))]
    try:
        started = connect()
    except (SweepError, OSError, RuntimeError, ValueError) as error:
        return [*lines, Line("cluster", False, _no_cluster(error))]
    storage = places.storage.seen(places.folder.parent)
    try:
        answers = survey(
            Asked({name: Data(name=name, root=root) for name, root in data.items()}, places.tracking_uri, storage, gpus=True)
        )
        lines += node_lines(answers, places.tracking_uri, storage)
    except OSError as error:
        lines.append(Line("storage", False, f"{storage} from this machine: {error.strerror or error}; choose another: --storage"))
    finally:
        if started:
            disconnect(started)
    return [*lines, *several(len(answers), places.tracking_uri)] if "answers" in locals() else lines


def several(nodes: int, tracking_uri: str) -> list[Line]:
    """What only matters where a cluster has several nodes."""
    if nodes > 1 and tracking_uri.startswith("sqlite") and os.environ.get(ONE_MACHINE, "") != "1":
        return [Line("tracker", False, f"{tracking_uri}: {SQLITE}")]
    return []


def found_data(names: Sequence[str] = ()) -> dict[str, str]:
    """The known data sets that lie in $DMKD_DATA."""
    from dmkd.data.datasets import DATASETS

    shared = os.environ.get("DMKD_DATA", "")
    return {name: "" for name in DATASETS if shared and (Path(shared).expanduser() / name).is_dir()}


def _no_cluster(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return (
        f"cannot join Ray ({text}): is it running (cluster/local.sh start), is RAY_ADDRESS right, and is RAY_AUTH_MODE=token set "
        "here, with the head's token file (~/.ray/auth_token)?"
    )

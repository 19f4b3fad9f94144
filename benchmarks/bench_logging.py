"""30 metrics an epoch into MLflow, against Ray's callback: what training pays, and all of the work until the tracker has them."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

# As the command line does before MLflow is imported.
os.environ["MLFLOW_LOGGING_LEVEL"] = "ERROR"

from ratio import heading, record
from ray.air._internal.mlflow import _MLflowLoggerUtil
from served import free_port, served

from tracking.client import connect
from tracking.runs import Run, start_run

METRICS = {f"val/metric_{number}": number / 30 for number in range(30)}
EPOCHS = 30


def main() -> None:
    heading()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["DMKD_STATE"] = str(place / "state")
        uri = f"sqlite:///{place}/mlflow.db"
        compare("sqlite", uri)
        (place / "server").mkdir()
        with served(place / "server") as (address, _):
            compare("server", address)
        away(place)


def compare(kind: str, uri: str) -> None:
    """Epoch by epoch, in turn; both have logged the same in the end."""
    peer = _MLflowLoggerUtil()
    peer.setup_mlflow(tracking_uri=uri, experiment_name="bench")
    peer_id = peer.start_run(run_name="peer").info.run_id
    run = start_run(uri, "bench", "ours", params={}, tags={})
    pays: list[float] = []
    whole: list[float] = []
    theirs: list[float] = []
    for step in range(EPOCHS + 1):
        began = time.perf_counter()
        run.log(METRICS, step)
        pays.append(time.perf_counter() - began)
        delivered(run)
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        peer.log_metrics(run_id=peer_id, metrics_to_log=METRICS, step=step)
        theirs.append(time.perf_counter() - began)
    assert run.finish()
    client = connect(uri)
    assert client.get_run(run.id).data.metrics == client.get_run(peer_id).data.metrics == METRICS
    told = {"peer_name": "Ray's MLflow callback", "goal": 0.1}
    record(f"logging 30 metrics an epoch, {kind}: what training pays", pays[1:], theirs[1:], **told)
    record(f"logging 30 metrics an epoch, {kind}: until the tracker has them", whole[1:], theirs[1:], **told)


def delivered(run: Run) -> None:
    while run._spool.waits:
        time.sleep(0.0005)


def away(place: Path) -> None:
    """The longest a step waits (p99 of 1,000) with a server that does not answer."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    run = start_run(f"http://127.0.0.1:{free_port()}", "bench", "away", params={}, tags={}, patience=0.1)
    waits = []
    for step in range(1000):
        began = time.perf_counter()
        run.log(METRICS, step)
        waits.append(1e3 * (time.perf_counter() - began))
        time.sleep(0.002)
    run.finish()
    p99 = sorted(waits)[989]
    note = "the peer is the bound itself: no step may wait longer than 1 ms"
    record(
        "logging 30 metrics, server away: p99 of a step's wait", [p99], [1.0], peer_name="bound", goal=1.0, unit="ms", note=note
    )


if __name__ == "__main__":
    main()

"""The whole of it: a sweep on three nodes of which one dies half way, MLflow with a login on a real PostgreSQL, artifacts in an
S3-compatible store that only the server has the keys of; and no secret in anything that is left behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.drivers import SmallDriver, wait_for
from tests.postgres import Postgres
from tests.sweeps.nodes import BIN, Nodes, free_port

pytestmark = pytest.mark.slow

SERVE = Path(__file__).parents[2] / "cluster" / "tracking" / "serve.sh"


class Tracker:
    """PostgreSQL, a store that speaks S3 (moto's server), and `cluster/tracking/serve.sh` on both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports = folder, {name: free_port() for name in ("postgres", "s3", "mlflow")}
        # A password may hold what an address or an ini file takes for its own.
        self.secrets = {
            "POSTGRES_PASSWORD": secrets.token_hex(12) + "%@/:x",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_hex(16),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        }
        self.uri = f"http://127.0.0.1:{self.ports['mlflow']}"
        self.login = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": self.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"]}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.postgres = Postgres(self.ports["postgres"], self.secrets["POSTGRES_PASSWORD"])
        self._s3()
        self._mlflow()

    def start(self, command: list[str], log: str, **environment: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_"))}
        kept |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment
        with (self.folder / log).open("w") as file:
            self.processes.append(subprocess.Popen(command, cwd=self.folder, env=kept, stdout=file, stderr=file))

    def _s3(self) -> None:
        port = self.ports["s3"]
        self.start([str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)], "s3.log", AWS_ACCESS_KEY_ID="key")
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/moto-api/"), 120)
        self.store().create_bucket(Bucket="dmkd")

    def store(self):  # type: ignore[no-untyped-def]
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.ports['s3']}",
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key=self.secrets["AWS_SECRET_ACCESS_KEY"],
        )

    def _mlflow(self) -> None:
        environment = self.secrets | {
            "POSTGRES_PORT": str(self.ports["postgres"]),
            "DMKD_ARTIFACTS": "s3://dmkd",
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3']}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
            "DMKD_TRACKER_PORT": str(self.ports["mlflow"]),
            "MLFLOW_WORKERS": "1",
            "TMPDIR": str(self.folder),
        }
        self.start([str(SERVE)], "mlflow.log", **environment)
        wait_for(lambda: answers(f"{self.uri}/health"), 300)

    def close(self) -> None:
        for process in reversed(self.processes):
            with suppress(psutil.NoSuchProcess):
                for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                    with suppress(psutil.NoSuchProcess):
                        child.send_signal(signal.SIGTERM)
            process.wait(60)
        self.postgres.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    (tmp_path / "tracker").mkdir()
    started = Tracker(tmp_path / "tracker")
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def nodes(tracker: Tracker, pictures: Path) -> Iterator[Nodes]:
    told = tracker.login | {"DMKD_ONE_MACHINE": "1"}
    started = Nodes(cpus=0, **told)
    try:
        for name in ("one", "two", "three"):
            started.add(name, **told)
        yield started
    finally:
        started.close()


class Sweep(SmallDriver):
    """A driver that joins the cluster, with the tracker's login in its environment."""

    def __init__(self, folder: Path, pictures: Path, nodes: Nodes, tracker: Tracker) -> None:
        super().__init__(folder, pictures, trials=4, epochs=4)
        self.nodes, self.tracker = nodes, tracker

    def start(self, *options: str) -> subprocess.Popen[str]:
        from sweeps.cluster import ROOT

        environment = self.nodes.environment | self.tracker.login | {"DMKD_ONE_MACHINE": "1"}
        command = [sys.executable, "script.py", str(ROOT), str(self.pictures), "--early-stopping", "none", *options]
        command += ["--tracking-uri", self.tracker.uri, "--storage", str(self.folder / "dmkd-output")]
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log, text=True)


def test_a_node_dies_half_way_and_nothing_is_lost_or_told(tmp_path: Path, pictures: Path, nodes: Nodes, tracker: Tracker) -> None:
    assert_login_is_needed(tracker)
    sweep = Sweep(tmp_path / "sweep", pictures, nodes, tracker)
    began = time.monotonic()
    process = sweep.start()
    wait_for(lambda: process.poll() is not None or sum(sweep.epoch(f"trial-{n:04d}") for n in range(4)) >= 4, 900)
    assert process.poll() is None, sweep.log()
    nodes.kill("two")
    assert process.wait(1500) == 0, sweep.log()
    print(f"\nthe sweep on three nodes, one of which died: {time.monotonic() - began:.0f} s")
    for line in ("killed", "dmkd leaderboard --experiment folder/killed"):
        assert line in sweep.log()
    # What PostgreSQL holds: every run FINISHED, every epoch of every run once.
    assert tracker.postgres.sql("SELECT DISTINCT status FROM runs WHERE lifecycle_stage = 'active'").split() == ["FINISHED"]
    rows = tracker.postgres.sql(
        "SELECT run_uuid, count(*), count(DISTINCT step), max(step) FROM metrics "
        "WHERE key = 'cost/train_seconds' GROUP BY run_uuid"
    ).split()
    assert len(rows) in (5, 6), rows  # the search, and in the final stage trial 0 and the best, unless they are one
    assert {row.split("|", 1)[1] for row in rows} == {"4|4|4"}
    # What the store holds: the checkpoints of the final stage, and of its configurations those of the search.
    keys = [item["Key"] for item in tracker.store().list_objects_v2(Bucket="dmkd", MaxKeys=1000)["Contents"]]
    held = [key for key in keys if key.endswith("checkpoint/weights.safetensors")]
    assert len(held) == 2 * (len(rows) - 4), (rows, keys)
    pulled = nodes.run(
        [sys.executable, "-m", "dmkd", "leaderboard", "--experiment", "folder/killed", "--tracking-uri", tracker.uri],
        **tracker.login,
    )
    assert pulled.returncode == 0, pulled.stderr
    assert_no_secret(sweep, nodes, tracker, keys)


def assert_login_is_needed(tracker: Tracker) -> None:
    asked = urllib.request.Request(
        f"{tracker.uri}/api/2.0/mlflow/experiments/search", b'{"max_results": 1}', {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=60)
    assert refused.value.code == 401
    refused.value.close()


def assert_no_secret(sweep: Sweep, nodes: Nodes, tracker: Tracker, keys: list[str]) -> None:
    """Not in the sweep's folder and log, in Ray's session (logs, jobs, runtime environments), in PostgreSQL, in artifacts."""
    planted = [value.encode() for value in tracker.secrets.values()] + [(nodes.folder / "token").read_bytes()]
    files = [path for place in (sweep.folder, nodes.folder / "ray") for path in place.rglob("*") if path.is_file()]
    files += [tracker.folder / "mlflow.log", *nodes.folder.glob("*.log")]
    assert len(files) > 50
    contents = {str(path): path.read_bytes() for path in files}
    contents |= {key: tracker.store().get_object(Bucket="dmkd", Key=key)["Body"].read() for key in keys}
    for table in ("params", "tags", "runs", "experiments", "experiment_tags"):
        contents[table] = tracker.postgres.sql(f"SELECT * FROM {table}").encode()
    told = {name for name, content in contents.items() if any(secret in content for secret in planted)}
    assert told == set()

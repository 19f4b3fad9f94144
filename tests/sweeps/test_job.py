"""`ray job submit`, as it is typed, to a head with token authentication, on Cars-196 trees in their real layouts."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sweeps.cluster import ROOT
from tests.pictures import make_cars196
from tracking.reading import load_runs

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
SMALL = [
    "--trials",
    "2",
    "--epochs",
    "1",
    "--seeds",
    "1",
    "--set",
    "student.backbone=resnet18",
    "--set",
    "student.weights=none",
    "--set",
    "method.batches.size=8",
    "--set",
    "student.resolution=112",
    "--set",
    "evaluation.nmi=false",
    "--set",
    "data.validation=0.5",
]


class Head:
    """A head started in the project's root (or a copy of it) with the environment active, and clients that talk to it."""

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder, self.ports = folder, [_free_port() for _ in range(4)]
        self.address = f"http://127.0.0.1:{self.ports[1]}"
        (folder / "token").write_text(secrets.token_hex(32))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "DMKD_"))}
        self.environment = kept | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_API_SERVER_ADDRESS": self.address,
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "DMKD_COMMIT": "0123abc",
        }
        # Of the nodes' environment, not of the client's: where the data lie.
        node = self.environment | {"DMKD_DATA": str(folder / "data"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        command = ["ray", "start", "--head", "--block", "--num-cpus", "2", "--dashboard-host", "127.0.0.1"]
        command += [
            "--port",
            str(self.ports[0]),
            "--dashboard-port",
            str(self.ports[1]),
            "--ray-client-server-port",
            str(self.ports[2]),
        ]
        command += ["--dashboard-agent-listen-port", str(self.ports[3])]
        command += ["--temp-dir", str(folder / "ray"), "--object-store-memory", str(150 * 2**20)]
        with (folder / "head.log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=root, env=node, stdout=log, stderr=log)

    def ready(self) -> None:
        """The agent that starts jobs comes up some seconds after the address answers."""
        for _ in range(30):
            done = self.submit("--", "true")
            if done.returncode == 0:
                return
            time.sleep(2)
        raise AssertionError(done.stdout + done.stderr + (self.folder / "head.log").read_text())

    def submit(self, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["ray", "job", "submit", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=self.environment | environment, capture_output=True, text=True, timeout=900, check=False
        )

    def close(self) -> None:
        family = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for process in reversed(family):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray's sockets want a short path.
    started = Head(Path(tempfile.mkdtemp(prefix="dmkd")))
    try:
        started.ready()
        yield started
    finally:
        started.close()
        shutil.rmtree(started.folder, ignore_errors=True)


def test_without_data_the_literal_form_ends_in_one_clear_line(head: Head) -> None:
    done = head.submit("sweeps/cars_s2sd.py")
    assert done.returncode != 0
    # The client shows the log and then, as the status of the job, its end once more.
    lines = list({line for line in done.stdout.splitlines() if line.startswith("cars_s2sd: ")})
    assert len(lines) == 1, done.stdout + done.stderr
    assert f"{head.folder}/data/cars196" in lines[0]
    assert "cars_annos.mat" in lines[0]
    assert "Traceback" not in done.stdout


def test_a_client_without_the_token_is_refused(head: Head) -> None:
    (head.folder / "wrong").write_text(secrets.token_hex(32))
    done = head.submit("sweeps/cars_s2sd.py", RAY_AUTH_TOKEN_PATH=str(head.folder / "wrong"))
    assert done.returncode != 0
    assert re.search("401|403|nvalid|token", done.stdout + done.stderr)


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_request_without_the_token_is_refused(head: Head, token: str) -> None:
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {token}"} if token else {})
    with pytest.raises(urllib.error.HTTPError, match=r"401|403") as refused:
        urllib.request.urlopen(request, timeout=30)
    refused.value.close()


@pytest.mark.parametrize(("layout", "form"), [("car_ims", "literal"), ("devkit", "uploaded")])
def test_cars_s2sd_runs_as_a_job(head: Head, layout: str, form: str) -> None:
    make_cars196(head.folder / "data" / layout, layout=layout, classes=8, per_class=8)
    place = ["--data-root", str(head.folder / "data" / layout), "--name", layout]
    if form == "literal":
        # All that is added to the literal command makes it small: no weights to download, a small network, one epoch.
        done = head.submit("--", "sweeps/cars_s2sd.py", *SMALL, *place, "--storage", str(head.folder / "out"))
    else:
        done = head.submit("--working-dir", ".", "--", "python", "sweeps/cars_s2sd.py", *SMALL, *place)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "s2sd/msdf" in done.stdout
    runs = load_runs(f"sqlite:///{head.folder}/mlflow.db", f"cars196/{layout}")
    assert set(runs["status"]) == {"FINISHED"}
    search = runs.filter(runs["tags.dmkd.stage"] == "search")
    assert len(search) == 2
    trial = search.filter(search["tags.dmkd.trial"] == "1").row(0, named=True)
    assert 0.2 <= float(trial["params.method.temperature"]) <= 2
    assert 1 <= float(trial["params.method.weight"]) <= 1000
    assert trial["params.method.diffusion.enabled"] in ("True", "False")
    assert 0 < float(trial["params.method.diffusion.omega"]) < 1
    assert trial["params.student.resolution"] in ("112", "160", "224")
    home = head.folder / "out" if form == "literal" else head.folder / "dmkd" / "dmkd-output"
    assert (home / layout / "trials" / "trial-0001" / "checkpoint" / "model.json").exists()
    if form == "uploaded":
        assert "uploaded folder that will be deleted" in done.stdout
        assert set(runs["tags.dmkd.commit"]) == {"0123abc"}


@pytest.fixture(scope="module")
def copied_head() -> Iterator[Head]:
    """A head that has its own copy of the project elsewhere, as in an image."""
    folder = Path(tempfile.mkdtemp(prefix="dmkd"))
    copy = folder / "opt" / "dmkd"
    for package in ("dmkd", "sweeps", "tracking"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    script = copy / "sweeps" / "cars_s2sd.py"
    script.write_text(script.read_text().replace('"""', '"""Of the head. ', 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        started = Head(folder, copy)
    try:
        started.ready()
        yield started
    finally:
        started.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_client_in_another_folder_runs_what_lies_where_the_head_runs(copied_head: Head, tmp_path: Path) -> None:
    """The literal command, from a folder that holds nothing of the project: script, packages and data are the head's."""
    make_cars196(copied_head.folder / "data" / "cars196", layout="car_ims", classes=8, per_class=8)
    place = ["--storage", str(copied_head.folder / "out"), "--name", "elsewhere"]
    done = copied_head.submit("--", "sweeps/cars_s2sd.py", *SMALL, *place, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    runs = load_runs(f"sqlite:///{copied_head.folder}/mlflow.db", "cars196/elsewhere")
    assert set(runs["status"]) == {"FINISHED"}
    parent = runs.filter(runs["tags.dmkd.stage"] == "sweep").row(0, named=True)
    assert "Of the head." in parent["tags.mlflow.note.content"]
    assert list(tmp_path.iterdir()) == []


def test_a_job_in_a_wrong_folder_says_not_found(copied_head: Head) -> None:
    """What cluster/README.md explains: the client's own folder, though it is the project's root, is not looked into."""
    done = copied_head.submit("--", "sh", "-c", "cd / && sweeps/cars_s2sd.py", cwd=ROOT)
    assert done.returncode != 0
    assert "sweeps/cars_s2sd.py: not found" in done.stdout + done.stderr
    explained = " ".join((ROOT / "cluster" / "README.md").read_text().split())
    assert '"sweeps/cars_s2sd.py: not found"' in explained
    assert "the *head's* working folder" in explained

"""`dmkd doctor` on three nodes, of which one is broken in every way at once: each line has to name that node and that thing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.cluster import ROOT
from tests.pictures import make_folder
from tests.sweeps.nodes import Nodes, free_port

pytestmark = pytest.mark.slow

LATE = """
import time
if b"default_worker" in open("/proc/self/cmdline", "rb").read():
    _time, _ns = time.time, time.time_ns
    time.time = lambda: _time() - 3600
    time.time_ns = lambda: _ns() - 3600 * 10**9
"""


def outside(storage: Path) -> list[str]:
    """A command whose process sees an empty folder in the place of `storage`, as on a machine that has not mounted it."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    return [*own, "sh", "-c", f'mount -t tmpfs none "{storage}" && exec "$@"', "sh"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[tuple[bool, str]]]]:
    place = tmp_path_factory.mktemp("doctor")
    storage = place / "storage"
    storage.mkdir()
    if subprocess.run([*outside(storage), "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody have a mount namespace of its own")
    make_folder(place / "data" / "folder", classes=4, size=32, per_class=4)
    shutil.copytree(place / "data", place / "less")
    next((place / "less" / "folder").rglob("*.png")).unlink()
    # A directory that comes first on the broken node's path: another package version, a clock that is late.
    odd = place / "odd"
    (odd / "polars-0.0.1.dist-info").mkdir(parents=True)
    (odd / "polars-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: polars\nVersion: 0.0.1\n")
    (odd / "sitecustomize.py").write_text(LATE)
    uri = f"http://127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2], "--workers", "1",
         "--backend-store-uri", f"sqlite:///{place}/mlflow.db"], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    nodes = Nodes(DMKD_DATA=str(place / "data"))
    try:
        nodes.add("well", DMKD_DATA=str(place / "data"))
        nodes.add(
            "broken",
            gpus=2,
            prefix=outside(storage),
            DMKD_DATA=str(place / "less"),
            PYTHONPATH=f"{odd}{os.pathsep}{ROOT}",
            # In capitals: gRPC, by which Ray speaks, reads the other spelling.
            HTTP_PROXY=f"http://127.0.0.1:{free_port()}",
        )
        wait_for_server(uri)
        done = nodes.run(
            [sys.executable, "-m", "dmkd", "doctor", "--json", "--storage", str(storage), "--tracking-uri", uri, "folder"],
            DMKD_DATA=str(place / "data"),
        )
        assert done.returncode == 1, done.stdout + done.stderr
        found: dict[str, list[tuple[bool, str]]] = {}
        for line in json.loads(done.stdout):
            found.setdefault(line["what"], []).append((line["ok"], line["text"]))
        yield found
    finally:
        nodes.close()
        server.terminate()
        server.wait()


def wait_for_server(uri: str) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the tracking server did not start")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("versions", r"polars is 0\.0\.1 on broken .*, 2\.\S+ elsewhere: install the same there"),
        ("data", r"folder on broken .* has other pictures \(fingerprint \w+, \w+ elsewhere\): copy it again"),
        ("tracker", r"http://127\.0\.0\.1:\d+ from broken .* does not answer.*[Pp]roxy"),
        ("storage", r"from broken .*: it is another folder there.*--storage"),
        ("gpu", r"^broken .*: Ray was told of 2 GPUs, torch sees 0 .*--num-gpus 0"),
        ("clock", r"^broken .* is 3[56]\d\d s behind this machine: start chrony or ntpd there"),
    ],
)
def test_a_line_names_the_node_and_what_to_do(lines: dict[str, list[tuple[bool, str]]], what: str, says: str) -> None:
    assert [ok for ok, _ in lines.get(what, [])] == [False], lines
    assert re.search(says, lines[what][0][1]), lines[what]


def test_what_is_well_is_said_to_be(lines: dict[str, list[tuple[bool, str]]]) -> None:
    assert re.search("3 answered: .*broken", lines["nodes"][0][1])
    assert lines["code"][0] == (True, lines["code"][0][1])
    assert "the same on 3 nodes" in lines["code"][0][1]
    assert lines["working folder"][0][0]

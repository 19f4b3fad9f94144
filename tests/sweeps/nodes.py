"""Several Ray nodes on one machine: real `ray start` processes with token authentication, each with an environment of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from sweeps.cluster import QUIET, ROOT

BIN = Path(sys.executable).parent


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _addresses() -> list[str]:
    """The IPv4 addresses of this machine."""
    return [one.address for some in psutil.net_if_addrs().values() for one in some if one.family == socket.AF_INET]


UNTOLD = ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")
"""A node joins the cluster that it is told of, and has the cards that are declared."""


class Nodes:
    """A head, and nodes that are added to it. Close it."""

    def __init__(self, cpus: int = 1, gpus: int = 0, *, dashboard: bool = False, **environment: str) -> None:
        # Ray's sockets want a short path, and other people's programs must not find this cluster.
        self.folder = Path(tempfile.mkdtemp(prefix="dmkd"))
        self.port, self.dashboard = free_port(), free_port()
        (self.folder / "token").write_text(secrets.token_hex(32))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "DMKD_", "AWS_"))}
        self.environment = kept | QUIET | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_TMPDIR": str(self.folder),
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
            "OMP_NUM_THREADS": "1",
            # gRPC takes http_proxy for its own too; a busy machine needs its time.
            "no_grpc_proxy": ",".join(["localhost", *_addresses()]),
            "RAY_raylet_start_wait_time_s": "300",
            "DMKD_STATE": str(self.folder / "state"),
        }  # fmt: skip
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        arguments = ["--head", "--port", str(self.port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(self.dashboard)]
        arguments += ["--include-dashboard", str(dashboard)]  # jobs need one; it is a handful of processes
        arguments += ["--ray-client-server-port", str(free_port()), "--temp-dir", str(self.folder / "ray")]
        self._start("head", arguments, (cpus, gpus), environment)
        self._wait("head")

    def add(self, name: str, cpus: int = 1, gpus: int = 0, *, prefix: Sequence[str] = (), **environment: str) -> None:
        """One more node, of which `prefix` is a command that starts the command that is behind it."""
        self._start(name, ["--address", f"127.0.0.1:{self.port}"], (cpus, gpus), environment, prefix)
        self._wait(name)

    def _start(
        self, name: str, arguments: list[str], size: tuple[int, int], more: dict[str, str], prefix: Sequence[str] = ()
    ) -> None:
        cpus, gpus = size
        command = [*prefix, "ray", "start", "--block", *arguments, "--num-cpus", str(cpus), "--num-gpus", str(gpus)]
        command += ["--resources", f'{{"{name}": 1}}', "--object-store-memory", str(100 * 2**20)]
        command += ["--dashboard-agent-listen-port", str(free_port()), "--disable-usage-stats", "--node-name", name]
        node = {key: value for key, value in self.environment.items() if key not in UNTOLD} | more
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(command, cwd=ROOT, env=node, stdout=log, stderr=log)

    def _wait(self, name: str) -> None:
        """Until the node says that it runs: asking Ray would cost a process each time."""
        log = self.folder / f"{name}.log"
        for _ in range(600):
            if "Ray runtime started." in log.read_text():
                return
            assert self.processes[name].poll() is None, log.read_text()
            time.sleep(0.5)
        raise AssertionError(log.read_text())

    def run(
        self, command: Sequence[str], cwd: Path = ROOT, timeout: float = 600, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A client's command, to its end."""
        return subprocess.run(
            command, cwd=cwd, env=self.environment | environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def kill(self, name: str) -> None:
        """The node dies, with all of its processes, without a word."""
        process = self.processes.pop(name)
        with suppress(psutil.NoSuchProcess):
            for one in reversed([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()

    def close(self) -> None:
        """End every node."""
        for name in reversed(list(self.processes)):
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

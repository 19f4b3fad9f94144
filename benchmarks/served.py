"""A real MLflow server on loopback, for benchmarks and tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil


@contextmanager
def served(folder: Path, *options: str, **environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """Its address and its process, on `mlflow.db` of `folder`, where its log and its artifacts lie; ended afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *options]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    # Without its job runner, which is seven further processes of Python.
    kept = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | environment
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=kept)
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(3000):
            with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=1):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield uri, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(120)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""moto's S3 server as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.sweeps.nodes import free_port
from tests.sweeps.test_interruptions import wait_for


class Server:
    """Serves while the context is open; `environment` is what a client needs."""

    def __init__(self) -> None:
        self.port = free_port()
        self.environment = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "planted", "AWS_DEFAULT_REGION": "us-east-1"}
        self.environment |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def __enter__(self) -> Server:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        command = [sys.executable, str(Path(__file__).with_name("serve.py")), str(self.port)]
        self.process = subprocess.Popen(command, env=kept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.answers, 120)
        return self

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/moto-api/", timeout=5):
            return True
        return False

    def reset(self) -> None:
        """Forget every bucket."""
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/moto-api/reset", method="POST")
        with urllib.request.urlopen(asked, timeout=10):
            pass

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

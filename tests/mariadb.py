"""A real MariaDB on loopback, in a folder of its own: the MySQL that Debian packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

import pytest


class Mariadb:
    """Runs until `close`; `uri` is that of its database `mlflow`. Skips the test without MariaDB or the driver pymysql."""

    def __init__(self, port: int, password: str) -> None:
        pytest.importorskip("pymysql")
        server, install = (shutil.which(name) or "" for name in ("mariadbd", "mariadb-install-db"))
        if not (server and install):
            pytest.skip("no mariadbd here: the package mariadb-server has it")
        self.folder = Path(tempfile.mkdtemp(prefix="dmkd-mariadb"))
        self.uri = f"mysql+pymysql://mlflow:{urllib.parse.quote(password, safe='')}@127.0.0.1:{port}/mlflow"
        user = "mysql" if os.geteuid() == 0 else None  # it does not run as root
        if user:
            shutil.chown(self.folder, user)
        data = f"--datadir={self.folder}/data"
        made = [install, "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(made, check=True, capture_output=True, cwd="/", user=user, group=user)
        start = self.folder / "start.sql"  # read by the server as it starts: there is no moment without the password
        start.write_text(
            "CREATE DATABASE mlflow CHARACTER SET utf8mb4;\n"
            f"CREATE USER 'mlflow'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
            "GRANT ALL ON mlflow.* TO 'mlflow'@'127.0.0.1';\n"
        )
        start.chmod(0o644)
        options = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={self.folder}/socket", f"--init-file={start}"]
        self.log = self.folder / "mariadb.log"
        with self.log.open("w") as file:
            command = [server, "--no-defaults", data, "--skip-name-resolve", *options]
            self.process = subprocess.Popen(command, cwd="/", stdout=file, stderr=file, user=user, group=user)
        end = time.monotonic() + 120
        while "ready for connections" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

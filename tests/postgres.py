"""A real PostgreSQL on loopback for a test, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

import pytest


class Postgres:
    """Runs until `close`; `uri` is that of its database `mlflow`. Skips the test where PostgreSQL is not installed."""

    def __init__(self, port: int, password: str) -> None:
        self.port, self.password = port, password
        self.folder = Path(tempfile.mkdtemp(prefix="dmkd-postgres"))  # pytest's folders are closed to another user
        self.uri = f"postgresql+psycopg2://mlflow:{urllib.parse.quote(password, safe='')}@127.0.0.1:{port}/mlflow"
        (self.folder / "password").write_text(password)
        self.user: str | None = None
        if os.geteuid() == 0:  # it does not run as root: then it runs as the user that its package makes
            shutil.chown(self.folder, "postgres")
            shutil.chown(self.folder / "password", "postgres")
            self.user = "postgres"
        data = str(self.folder / "data")
        made = [program("initdb"), "-D", data, "-U", "mlflow", "-E", "UTF8", "--auth=scram-sha-256"]
        subprocess.run(
            [*made, f"--pwfile={self.folder}/password"], check=True, capture_output=True, cwd="/", user=self.user, group=self.user
        )
        options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        self.stop = [program("pg_ctl"), "-D", data, "-m", "immediate", "stop"]
        self.log = self.folder / "postgres.log"
        with self.log.open("w") as file:
            command = [program("postgres"), "-D", data, *options]
            self.process = subprocess.Popen(command, cwd="/", stdout=file, stderr=file, user=self.user, group=self.user)
        end = time.monotonic() + 120
        while "ready to accept connections" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        self.sql("CREATE DATABASE mlflow", database="postgres")

    def sql(self, text: str, database: str = "mlflow") -> str:
        """What psql prints for a statement."""
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "mlflow", "-d", database]
        environment = os.environ | {"PGPASSWORD": self.password}
        command = [program("psql"), *place, "-Atc", text]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    def close(self) -> None:
        subprocess.run(self.stop, capture_output=True, cwd="/", check=False, user=self.user, group=self.user)
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


def program(name: str) -> str:
    """Of PostgreSQL: on the PATH, or where Debian keeps it."""
    found = shutil.which(name) or next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), "")
    if not found:
        pytest.skip(f"no {name} here: the package postgresql has it")
    return found

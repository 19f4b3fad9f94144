"""An S3-compatible store: moto's server, over HTTP on loopback, in a process of its own so that it can be stopped and frozen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeps.bucket import store as stores
from sweeps.bucket.storage import Bucket
from sweeps.bucket.trial import Beats
from tests.faults.conftest import database, migrated, own_state, pictures, teacher
from tests.sweeps.bucket.server import Server

__all__ = ["database", "migrated", "own_state", "pictures", "teacher"]

pytest.importorskip("boto3")
pytest.importorskip("moto.server")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Its address and keys stay in the environment: a thread that outlives its test must not make a client of another store."""
    with Server() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        yield running


@pytest.fixture
def s3(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an empty bucket `sweeps`. Address and keys come from the environment, as on a node."""
    monkeypatch.setenv("DMKD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("DMKD_STATE", str(tmp_path / "state"))
    stores._client.cache_clear()
    client = stores._client()
    server.reset()
    client.create_bucket(Bucket="sweeps")
    yield client
    for thread in threading.enumerate():
        if isinstance(thread, Beats):
            thread.stop()
    stores._client.cache_clear()


@pytest.fixture
def bucket(s3: Any) -> Bucket:
    return Bucket.of("s3://sweeps/mine", "one")

"""Who must not get in: a client of another machine, or one that was lured here by a page's script."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


def test_mlflow_listens_on_loopback_alone_under_the_shipped_defaults(server: str) -> None:
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "mlflow ui" in line]
    assert re.search(r"--host 127\.0\.0\.1 ", line)
    port = int(server.rsplit(":", 1)[1])
    heard = {found.laddr.ip for found in psutil.net_connections("tcp") if found.status == "LISTEN" and found.laddr.port == port}
    assert heard == {"127.0.0.1"}, "no other address of this machine, so no other machine"


def test_mlflow_refuses_a_name_that_is_not_its_own(server: str) -> None:
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": "evil.example"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(request, timeout=30)
    refused.value.close()

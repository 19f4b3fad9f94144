from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmkd.errors import SweepError
from sweeps.options import Options
from sweeps.places import absolute_uri, find_commit, find_places, lock

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from sweeps.places import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_relative_places_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = find_places(Options(), "x")
    assert places.folder == tmp_path / "dmkd-output" / "x"
    assert places.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/runs.db")
    assert find_places(Options(storage="s"), "x").tracking_uri == f"sqlite:///{tmp_path}/sub/runs.db"
    assert absolute_uri("http://host:5000", tmp_path) == "http://host:5000"
    assert absolute_uri("sqlite:////abs/runs.db", tmp_path) == "sqlite:////abs/runs.db"


def test_a_jobs_uploaded_folder_keeps_nothing(tmp_path, monkeypatch, capsys):
    """Ray runs an uploaded working folder in a temporary session folder that it deletes."""
    upload = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    upload.mkdir(parents=True)
    monkeypatch.chdir(upload)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = find_places(Options(storage="mine"), "x")
    assert places.folder == tmp_path / "home" / "dmkd" / "mine" / "x"
    assert places.tracking_uri == f"sqlite:///{tmp_path}/home/dmkd/mlflow.db"
    assert f"results go to {tmp_path}/home/dmkd" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["gs://bucket", "file:///tmp/x", "s3://no_bucket/x"])
def test_an_address_that_is_none_of_s3_is_refused_and_nothing_is_made(tmp_path, monkeypatch, address):
    from sweeps.checks.doctor import Patient, examine

    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SweepError, match=rf"--storage {address}/x: wanted a folder that every node mounts, or s3://bucket/prefix"
    ):
        find_places(Options(storage=address), "x")
    line = examine(Patient({}, storage=address, folder=tmp_path))[-1]
    assert (line.what, line.ok) == ("storage", False)
    assert "wanted a folder that every node mounts" in line.text
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SweepError, match=r"cannot write to .*file/x .*--storage"):
        find_places(Options(storage=str(blocked)), "x")
    with pytest.raises(SweepError, match="--tracking-uri"):
        find_places(Options(storage=str(tmp_path / "s"), tracking_uri=f"sqlite:///{blocked}/runs.db"), "x")
    for name in ("", "a/b", "..", ".hidden"):
        with pytest.raises(SweepError, match="wanted a plain name"):
            find_places(Options(storage=str(tmp_path / "s")), name)


def test_a_second_sweep_of_the_same_name_is_refused_while_the_first_lives(tmp_path):
    root = str(Path(__file__).resolve().parents[2])
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), root], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(
                SweepError, match=rf"already running \(pid {holder.pid} on .*\): wait for it, or start another with --name"
            ),
            lock(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    # Its holder is dead, the file is still there: no lock.
    assert (tmp_path / "lock").exists()
    with lock(tmp_path):
        assert f"pid {os.getpid()}" in (tmp_path / "lock").read_text()
    with lock(tmp_path):
        pass


def test_the_commit_comes_from_git_or_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("DMKD_COMMIT", raising=False)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert find_commit(tmp_path / "script.py") == head
    assert find_commit(Path("/") / "script.py") == ""
    monkeypatch.setenv("DMKD_COMMIT", "abc")
    assert find_commit(Path("/") / "script.py") == "abc"
    assert find_commit(tmp_path / "script.py") == head

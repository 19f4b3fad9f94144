"""Many processes write to one sqlite database at once, through their spools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.tracked import history
from tracking.reading import load_runs
from tracking.runs import sync

WRITER = """
import json, sys, time
from tracking.runs import start_run
uri, spool, name, seconds, pause = sys.argv[1:]
run = start_run(uri, "e", name, params={}, tags={}, key=name, spool=spool, patience=600.0)
waits, step, end = [], 0, time.monotonic() + float(seconds)
while time.monotonic() < end or step < 5:
    step += 1
    began = time.perf_counter()
    run.log({f"m/{number}": step + number / 100 for number in range(30)}, step)
    waits.append(time.perf_counter() - began)
    time.sleep(float(pause))
run.finish()
print(json.dumps({"steps": step, "waits": waits}))
"""


@pytest.mark.parametrize(("writers", "seconds", "pause"), [(8, 2.0, 0.2), pytest.param(16, 300.0, 2.0, marks=pytest.mark.slow)])
def test_no_lock_error_surfaces_and_what_is_read_back_is_what_was_written(
    writers: int, seconds: float, pause: float, database: str, tmp_path: Path
) -> None:
    environment = os.environ | {"DMKD_STATE": str(tmp_path / "state")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, database, str(tmp_path / "spool"), f"w{number}", str(seconds), str(pause)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(writers)
    ]
    ended = [process.communicate(timeout=seconds + 900) for process in started]
    assert [process.returncode for process in started] == [0] * writers, ended
    told = [json.loads(out) for out, _ in ended]
    assert "locked" not in "".join(error for _, error in ended)
    sync(tmp_path / "spool")  # what a writer's patience did not last for
    rows = {row["name"]: row for row in load_runs(database, "e").to_dicts()}
    assert {row["status"] for row in rows.values()} == {"FINISHED"}
    for number, writer in enumerate(told):
        found = history(database, rows[f"w{number}"]["run_id"], "m/29")
        assert found == [(step, step + 0.29) for step in range(1, writer["steps"] + 1)]
    waits = sorted(wait for writer in told for wait in writer["waits"])
    slowest = waits[int(0.99 * (len(waits) - 1))]
    print(f"{writers} writers, {len(waits)} steps of 30 metrics: a step waited {1e3 * slowest:.2f} ms (p99)")

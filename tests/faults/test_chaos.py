"""Twenty trials while every worker is killed with a probability of 0.03 each second: a trial lasts seconds here, not hours."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sweeps.folder import read_done
from tests.faults.drivers import SmallDriver
from tracking.heartbeat import process_lives, read_beat
from tracking.reading import load_runs
from tracking.show import show

pytestmark = pytest.mark.slow


def at_work(driver: SmallDriver) -> list[tuple[Path, int]]:
    """Folders of the trials that are being written now, and by which process."""
    found = []
    for path in driver.out.glob("trials/*/writer.json"):
        sign = read_beat(path) or {}
        if read_done(path.parent) is None and process_lives(sign):
            found.append((path.parent, int(sign["pid"])))
    return found


def test_a_sweep_whose_workers_are_killed_at_random_ends_as_the_undisturbed_one(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SmallDriver(tmp_path / "whole", pictures, trials=20, epochs=3, steps=8)
    assert whole.start().wait(1500) == 0, whole.log()
    driver, draw, kills = SmallDriver(tmp_path / "chaos", pictures, trials=20, epochs=3, steps=8), random.Random(1), []
    process = driver.start()
    while process.poll() is None:
        time.sleep(1)
        for folder, pid in at_work(driver):
            at = (folder.name, driver.epoch(folder.name))
            # Chaos without a death shows nothing; three in one epoch, which may be slow, end a trial by design (test_fence).
            if at not in kills and (draw.random() < 0.03 or (not kills and folder.name >= "trial-0010")):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills.append(at)
    assert process.returncode == 0, driver.log()
    assert kills
    assert driver.results() == whole.results()
    for key, epoch in kills:  # at most one interval of work lost: the next worker began where the dead one had saved
        runs = load_runs(f"sqlite:///{driver.folder}/mlflow.db")
        run = runs.filter(runs["tags.dmkd.run_key"].str.ends_with(f"/{key}")).row(0, named=True)
        assert run["status"] == "FINISHED"
        assert epoch < 2 or int(run["tags.dmkd.resume"].split()[2].rstrip(",")) >= epoch - 1
    monkeypatch.setenv("DMKD_STATE", str(tmp_path / "state"))
    boards = [show(f"sqlite:///{one.folder}/mlflow.db", form="csv") for one in (whole, driver)]
    assert without_ids(boards[0]) == without_ids(boards[1])
    print(f"{len(kills)} workers killed: {kills}")


def without_ids(board: str) -> list[list[str]]:
    """A board's rows without what time and place give: ids of rows and runs, and hours."""
    header, *rows = [line.split(",") for line in board.splitlines()]
    apart = ("id", "_runs", "reproduce", "hours", "second", "time")
    kept = [at for at, name in enumerate(header) if not any(word in name for word in apart)]
    return [[row[at] for at in kept] for row in [header, *rows]]

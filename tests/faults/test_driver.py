"""A driver that is dead, and one that watches: the study of the first waits, the second ends workers that say nothing."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweeps import guard
from sweeps.folder import read_done
from sweeps.guard import LOST, Guard, Reaper
from sweeps.places import lock
from sweeps.reaping import reap_all, settle_study
from sweeps.shared import Shared
from sweeps.signals import Terminated, terminable
from sweeps.study import open_study
from sweeps.watch import silence
from tests.sweeps.test_search import result, search
from tracking.heartbeat import HEARTBEAT, lost_after
from tracking.places import note_spool
from tracking.reading import load_runs


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_STATE", str(tmp_path / "state"))


def states(folder: Path) -> list[TrialState]:
    return [trial.state for trial in open_study(folder, "s").trials]


def test_what_a_dead_driver_left_running_waits_in_the_study_and_goes_on_under_its_number(tmp_path: Path) -> None:
    first = search(tmp_path / "sweep")
    jobs = {name: first.suggest(name) for name in "abc"}
    first.on_trial_complete("a", result(4, 0.3))
    first.on_trial_result("b", result(1, 0.1))
    (tmp_path / "sweep" / "spool").mkdir()
    note_spool(tmp_path / "sweep" / "spool")
    with lock(tmp_path / "sweep"):
        assert settle_study(tmp_path / "sweep") == [], "its driver lives"
    assert states(tmp_path / "sweep") == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]
    told = reap_all(f"sqlite:///{tmp_path}/none.db")
    assert told == [f"trial {number} of sweep waits for --resume: its driver is dead" for number in (1, 2)]
    assert states(tmp_path / "sweep") == [TrialState.COMPLETE, TrialState.WAITING, TrialState.WAITING]
    assert reap_all(f"sqlite:///{tmp_path}/none.db") == []
    second = search(tmp_path / "sweep")
    assert second.left == 5
    assert [second.suggest(name) for name in "xy"] == [jobs["b"], jobs["c"]]
    second.on_trial_complete("x", result(4, 0.4) | {"history": [[1, 0.1], [2, 0.2]]})
    again = open_study(tmp_path / "sweep", "s").trials[1]
    assert (again.value, again.intermediate_values) == (0.4, {1: 0.1, 2: 0.2, 4: 0.4})


@dataclass
class Running:
    """What Tune knows of a trial."""

    key: str
    status: str = "RUNNING"
    trial_id: str = "id"
    config: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.config = {"run": {"key": self.key}}


def test_the_driver_ends_a_worker_whose_heart_stands_still_by_its_own_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ended = 1000.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    watch, trial = Guard(tmp_path, ended.append), Running("t")

    def look(seconds: float, beat: int | None = None) -> None:
        nonlocal now
        now += seconds
        if beat is not None:
            (tmp_path / "t").mkdir(exist_ok=True)
            (tmp_path / "t" / HEARTBEAT).write_text(json.dumps({"beat": beat}))
        watch.on_step_end(0, [trial])

    look(60, beat=7)  # left by an earlier worker; this one is still starting
    look(600)
    assert ended == []
    for beat in range(8, 12):
        look(30, beat)
    look(lost_after() - 1)
    assert ended == []
    look(31)
    assert ended == [trial]
    (tmp_path / "t" / "writer.json").write_text(json.dumps({"token": 1}))
    watch.on_trial_recover(0, [trial], trial)
    look(600)  # the next worker has not beaten yet
    trial.status = "PENDING"
    look(600, beat=12)
    assert ended == [trial]
    trial.status = "RUNNING"
    watch.on_trial_start(0, [trial], trial)
    look(10, beat=13)  # its only beat: it froze at once
    look(lost_after())
    assert ended == [trial]
    look(11)
    assert ended == [trial, trial]
    watch.on_trial_start(0, [trial], trial)
    look(600)  # it never beats: that is what a hung one is given
    look(silence() - 600 + lost_after() + 1)
    assert ended == [trial, trial, trial]


def test_a_worker_that_never_comes_up_is_begun_again_after_growing_pauses_one_for_all_trials(tmp_path: Path) -> None:
    slept: list[float] = []
    watch, one, other = Guard(tmp_path, lambda trial: None), Running("t"), Running("u", trial_id="other")
    watch.backoff = guard.Backoff(sleep=slept.append)
    for _ in range(5):
        for trial in (one, other):
            watch.on_trial_recover(0, [one, other], trial)
    assert slept == [5, 10, 20, 30, 30]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "writer.json").write_text(json.dumps({"token": 1}))
    watch.on_trial_recover(0, [one, other], one)  # this one was up: it goes on at once
    assert slept == [5, 10, 20, 30, 30]
    watch.on_trial_recover(0, [one, other], one)
    assert slept == [5, 10, 20, 30, 30, 5]


def test_a_trial_that_is_given_up_leaves_no_open_run(tmp_path: Path, database: str) -> None:
    from dmkd.config import Config
    from tracking.runs import start_run

    shared = Shared(Config(), tmp_path / "trials", database, "e", "s", None, "val/a", {}, spool=tmp_path / "spool")
    run = start_run(database, "e", "trial 3", key="s/t", params={"p": 1}, tags={}, spool=tmp_path / "spool")
    run.log({"a": 1.0}, 1)
    run._courier.close(30)
    (tmp_path / "trials" / "t").mkdir(parents=True)
    Reaper(shared).on_trial_error(0, [], Running("t"))
    for thread in threading.enumerate():
        if thread.name == "reap t":
            thread.join(60)
    row = load_runs(database, "e").row(0, named=True)
    assert (row["name"], row["status"], row["tags.dmkd.status_reason"]) == ("trial 3", "FAILED", LOST)
    assert (read_done(tmp_path / "trials" / "t") or {})["reason"] == LOST
    guard.close_lost(shared, "t", "again")
    assert load_runs(database, "e").row(0, named=True)["tags.dmkd.status_reason"] == LOST


def test_sigterm_ends_a_driver_once() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def driver() -> None:
        with terminable():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)  # impatience must not interrupt what is written now

    with pytest.raises(Terminated):
        driver()
    assert signal.getsignal(signal.SIGTERM) is before

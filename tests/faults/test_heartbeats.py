"""Who is alive: told by the process, by a growing number, never by a clock that someone may move."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.faults.processes import python
from tracking import heartbeat
from tracking.heartbeat import Heart, Watcher, born, interval, lost_after, process_lives, read_beat


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_STATE", str(tmp_path / "state"))


def elsewhere(path: Path, beat: int) -> None:
    """As a process of another machine writes it."""
    path.write_text(json.dumps({"machine": "other/boot", "pid": 1, "born": "1", "beat": beat}))


class Clock:
    """The looker's own clock, which nobody can set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "clock_gettime", lambda _: self.now)


def test_a_heart_beats_within_thirty_seconds_and_costs_no_step_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interval() <= 30
    monkeypatch.setenv("DMKD_HEARTBEAT", "3600")
    assert interval() == 30
    monkeypatch.setenv("DMKD_HEARTBEAT", "0.05")
    heart = Heart(tmp_path / "beat.json")
    first = read_beat(tmp_path / "beat.json")
    assert first is not None
    time.sleep(0.5)
    later = read_beat(tmp_path / "beat.json")
    assert later is not None
    assert later["beat"] > first["beat"]
    heart.stop()
    again = Heart(tmp_path / "beat.json")
    assert again.beat > later["beat"], "a number that falls would look like an old beat"
    again.stop()


def test_a_process_of_this_machine_is_looked_up(tmp_path: Path) -> None:
    code = "import sys, time\nfrom pathlib import Path\nfrom tracking.heartbeat import Heart\nHeart(Path(sys.argv[1]))\n"
    code += "print(1, flush=True)\ntime.sleep(60)"
    path = tmp_path / "beat.json"
    with python(code, path) as process:
        sign = read_beat(path)
        assert sign is not None
        assert process_lives(sign) is True
        assert Watcher().alive(path)
        # Another process with the same number, or the same number after a restart of the machine, is another one.
        assert process_lives(sign | {"born": "1"}) is False
        assert process_lives(sign | {"machine": "this/other boot"}) is None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert born(process.pid) == "", "what is left of a killed child is no life"
        assert process_lives(sign) is False
        assert not Watcher().alive(path)


def test_from_elsewhere_a_number_that_grows_is_life_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = Clock(monkeypatch), tmp_path / "beat.json"
    watcher = Watcher()
    for beat in range(1, 6):
        elsewhere(path, beat)
        os.utime(path, (time.time() + 3600, time.time() + 3600))  # the writer's clock runs an hour ahead
        assert watcher.alive(path)
        clock.now += lost_after() - 1
    clock.now += 2
    assert not watcher.alive(path), "the number stood still for more than three beats of the looker's clock"


def test_an_old_file_is_death_at_the_first_look_and_a_young_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "beat.json"
    elsewhere(path, 7)
    assert Watcher().alive(path)
    # The looker's clock was set back, or forward, by an hour: the file system's own clock is asked, not the looker's.
    for shift in (-3600.0, 3600.0):
        monkeypatch.setattr(time, "time", lambda shift=shift: 1e9 + shift)
        assert Watcher().alive(path)
    old = path.stat().st_mtime - lost_after() - 5
    os.utime(path, (old, old))
    assert not Watcher().alive(path)


def test_two_short_looks_remember_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `dmkd leaderboard` is a process of its own."""
    clock, path = Clock(monkeypatch), tmp_path / "beat.json"
    elsewhere(path, 7)
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    assert Watcher().alive(path)
    clock.now += lost_after() + 1
    assert not Watcher().alive(path)
    elsewhere(path, 8)
    assert Watcher().alive(path)
    monkeypatch.setattr(heartbeat, "machine", lambda: "this/after a restart")
    assert Watcher().alive(path), "a clock that began anew says nothing about older looks"

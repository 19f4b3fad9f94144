"""A study's journal is synced once for each trial handed out and for each told; what it holds is Optuna's own, at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from dmkd.config import Config
from dmkd.space import Range
from sweeps.journal import Journal, synced_once
from sweeps.objectives import Objectives
from sweeps.places import STUDY
from sweeps.search import StudySearch
from sweeps.space import Searched
from sweeps.study import open_study

METRIC = "val/recall_at_1"
KILLED = """
import os, sys, optuna
from optuna.storages import JournalStorage
from sweeps.journal import Journal, synced_once
study = optuna.load_study(study_name="s", storage=JournalStorage(Journal(sys.argv[1])))
with synced_once():
    study.ask().suggest_float("x", 0, 1)
    os._exit(9)
"""


@pytest.fixture
def synced(monkeypatch) -> list[tuple[str, int]]:
    """The name and the length of every file that was synced to the disk, then."""
    calls: list[tuple[str, int]] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        calls.append((os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), os.fstat(descriptor).st_size))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return calls


def read(path: Path) -> optuna.Study:
    """By Optuna's own backend."""
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))


def test_a_trial_costs_two_syncs_and_each_has_all_of_it(tmp_path, synced):
    study, path = open_study(tmp_path, "s"), tmp_path / STUDY
    searched = Searched(Config(), {"optim.lr": Range(1e-6, 1e-3, log=True), "optim.weight_decay": Range(1e-5, 1e-3, log=True)})
    search = StudySearch(study, searched, objectives=Objectives(METRIC), epochs=1, limit=5)
    synced.clear()
    search.suggest("a")
    assert synced == [(STUDY, path.stat().st_size)]
    search.on_trial_complete("a", {"epoch": 1, METRIC: 0.5, "time_total_s": 1.0})
    assert synced[1:] == [(STUDY, path.stat().st_size)]
    (trial,) = read(path).trials
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {1: 0.5})
    assert trial.params == study.trials[0].params
    assert len(trial.params) == 2


def test_outside_every_line_is_synced_and_nested_ones_are_one(tmp_path, synced):
    study, path = open_study(tmp_path, "s"), tmp_path / STUDY
    synced.clear()
    study.set_user_attr("a", 1)
    study.set_user_attr("b", 2)
    assert len(synced) == 2
    with synced_once():
        study.set_user_attr("c", 3)
        with synced_once():
            study.set_user_attr("d", 4)
        assert len(synced) == 2
        assert read(path).user_attrs == {"a": 1, "b": 2, "c": 3, "d": 4}  # who reads sees it at once
    assert synced[2:] == [(STUDY, path.stat().st_size)]


def test_what_fails_in_between_is_synced_too(tmp_path, synced):
    study = open_study(tmp_path, "s")
    synced.clear()

    @synced_once()
    def fails() -> None:
        study.set_user_attr("a", 1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    assert len(synced) == 1


def test_a_killed_process_loses_nothing_and_leaves_no_lock(tmp_path):
    path = tmp_path / STUDY
    optuna.create_study(study_name="s", storage=JournalStorage(Journal(str(path))))
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9
    (trial,) = read(path).trials
    assert trial.state == TrialState.RUNNING
    assert set(trial.params) == {"x"}
    assert [file.name for file in tmp_path.iterdir()] == [STUDY]

"""What a user is told, and what happens, when a finished sweep is started again."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from sweeps.options import Options
from sweeps.record import Record
from sweeps.session import failed_runs, goes_on


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "sweep.json", "x-1", {}, 4, finished=True)


def end(trials: Path, key: str, status: str) -> None:
    (trials / key).mkdir(parents=True)
    (trials / key / "done.json").write_text(json.dumps({"status": status, "reason": "", "metrics": {}, "epoch": 1}))


def test_a_finished_sweep_with_nothing_to_do_says_so(record, study, tmp_path, capsys) -> None:
    end(tmp_path, "final-aaaa-seed0", "finished")
    for options, told in ((Options(), "already finished"), (Options(rerun_failed=True), "nothing failed")):
        assert not goes_on(record, options, study, tmp_path)
        assert told in capsys.readouterr().err
        assert record.finished


def test_failed_runs_of_every_stage_are_taken_up_again(record, study, tmp_path, capsys) -> None:
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    end(tmp_path, "final-aaaa-seed0", "failed")
    end(tmp_path, "final-aaaa-seed1", "finished")
    end(tmp_path, "teacher-bbbb", "failed")
    end(tmp_path, "trial-0000", "failed")  # its trial in the study tells
    assert failed_runs(study, tmp_path) == 3
    assert goes_on(record, Options(rerun_failed=True), study, tmp_path)
    assert "3 to run again" in capsys.readouterr().err
    assert not json.loads(record.path.read_text())["finished"]


def test_an_extended_sweep_says_how_many_trials_it_has_and_keeps_how_many_it_was_begun_with(
    record, study, tmp_path, capsys
) -> None:
    record.extend(3)
    assert goes_on(record, Options(extend=3), study, tmp_path)
    assert "7 trials in all" in capsys.readouterr().err
    assert (record.trials - record.extended, record.finished) == (4, False)

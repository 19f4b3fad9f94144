"""Early stopping, called as Tune's controller does, on a real study."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from sweeps.search import open_study
from sweeps.stopping import Asha, time_is_up
from sweeps.trial import STOPPED

METRIC = "val/recall_at_1"
CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def trial(number, name=None):
    return SimpleNamespace(trial_id=name or f"tune-{number}", config={"number": number, "key": f"trial-{number:04d}"})


def asha(folder, study=None):
    study = study or open_study(folder, "s")
    return Asha(study, folder, metric=METRIC, grace=2, epochs=18, reduction=3)


def results(scheduler, one, values):
    """What the scheduler says to a trial's epochs 1, 2, ..., up to the first stop."""
    scheduler.on_trial_add(None, one)
    answers = []
    for epoch, value in enumerate(values, 1):
        answers.append(scheduler.on_trial_result(None, one, {"epoch": epoch, METRIC: value}))
        if answers[-1] == STOP:
            break
    return answers


def test_a_bad_trial_is_stopped_at_a_rung_and_not_before_the_first(tmp_path):
    scheduler = asha(tmp_path)
    assert results(scheduler, trial(1), [0.5] * 5) == [CONTINUE] * 5
    assert results(scheduler, trial(2), [0.0, 0.1]) == [CONTINUE, STOP]
    assert (tmp_path / "trial-0002" / STOPPED).read_text() == "pruned after epoch 2 of 18\n"
    assert results(scheduler, trial(3), [0.0, 0.6, 0.0, 0.0, 0.0]) == [CONTINUE] * 5
    # The next rung is three times later.
    assert scheduler.on_trial_result(None, trial(3), {"epoch": 6, METRIC: 0.6}) == CONTINUE
    assert scheduler.on_trial_result(None, trial(1), {"epoch": 6, METRIC: 0.5}) == STOP


def test_trial_zero_is_never_stopped_before_its_end_but_counts(tmp_path):
    scheduler = asha(tmp_path)
    results(scheduler, trial(1), [0.5] * 18)
    assert results(scheduler, trial(0), [0.0] * 18) == [CONTINUE] * 17 + [STOP]
    assert not (tmp_path / "trial-0000" / STOPPED).exists()
    rungs = {milestone: sorted(recorded.values()) for milestone, recorded in scheduler._brackets[0]._rungs}
    assert rungs[2] == [0.0, 0.5]


def test_a_new_driver_keeps_the_rungs_of_the_old_one(tmp_path):
    study = open_study(tmp_path, "s")
    done = study.ask()
    for epoch in range(1, 8):
        done.report(0.5, epoch)
    study.tell(done, 0.5)
    going = study.ask()
    for epoch in range(1, 4):
        going.report(0.4 if epoch == 2 else 0.9, epoch)
    assert study.trials[going.number].state == TrialState.RUNNING

    scheduler = asha(tmp_path, open_study(tmp_path, "s"))
    orphan = trial(going.number, "new-tune-id")
    scheduler.on_trial_add(None, orphan)
    rungs = dict(scheduler._brackets[0]._rungs)
    assert rungs[2] == {"study-0": 0.5, "new-tune-id": 0.4}
    assert rungs[6] == {"study-0": 0.5}
    # The orphan goes on at epoch 4: its passed rung is not judged again, its next one is, against the old trial.
    assert scheduler.on_trial_result(None, orphan, {"epoch": 4, METRIC: 0.0}) == CONTINUE
    assert scheduler.on_trial_result(None, orphan, {"epoch": 6, METRIC: 0.4}) == STOP
    assert results(scheduler, trial(2), [0.3, 0.3]) == [CONTINUE, STOP]


def test_an_epoch_without_a_score_and_a_failure_are_left_alone(tmp_path):
    scheduler = asha(tmp_path)
    results(scheduler, trial(1), [0.5] * 3)
    scheduler.on_trial_add(None, trial(2))
    assert scheduler.on_trial_result(None, trial(2), {"epoch": 2}) == CONTINUE
    assert scheduler.on_trial_result(None, trial(2), {"epoch": 2, "failed": "TrainingError", METRIC: 0.0}) == STOP
    assert not (tmp_path / "trial-0002").exists()


@pytest.mark.parametrize(("hours", "closed"), [(None, False), (1.0, False), (0.49, True), (0.01, True)])
def test_the_search_ends_in_time_for_the_final_stage(hours, closed):
    """Trials of ten minutes: one more, and two rounds of the final stage, take half an hour."""
    assert time_is_up(time.monotonic(), hours, waves=2)(600.0) is closed

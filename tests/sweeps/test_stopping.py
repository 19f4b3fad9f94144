"""Early stopping, called as Tune's controller does, on a real study."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from sweeps.stopping import Asha, Budget, MedianRule
from sweeps.study import open_study
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
    assert Budget(time.monotonic(), hours, waves=2).closed(600.0, 0.0) is closed


@pytest.mark.parametrize(("gpu_hours", "closed"), [(None, False), (1.01, False), (0.99, True)])
def test_gpu_hours_count_the_runs_of_the_final_stage_and_shares_of_a_gpu(gpu_hours, closed):
    """On half a card: an hour spent, and one more trial and five final runs of ten minutes each, are 2 h, so one GPU-hour."""
    budget = Budget(time.monotonic(), None, gpu_hours, share=0.5, waves=1, runs=5)
    assert budget.closed(600.0, 3600.0) is closed


def test_the_median_rule_stops_below_the_median_of_the_means_and_never_before_the_grace(tmp_path):
    scheduler = MedianRule(open_study(tmp_path, "s"), tmp_path, metric=METRIC, grace=2, epochs=18)
    for number, value in ((1, 0.2), (2, 0.4), (3, 0.6)):
        assert set(results(scheduler, trial(number), [value] * 2)) == {CONTINUE}  # two others are too few for a median
    assert results(scheduler, trial(4), [0.0, 0.7]) == [CONTINUE, STOP]  # its mean is 0.35, the others' median 0.4
    assert results(scheduler, trial(5), [0.0, 0.9]) == [CONTINUE, CONTINUE]  # 0.45
    assert results(scheduler, trial(0), [0.0, 0.0]) == [CONTINUE, CONTINUE]
    assert (tmp_path / "trial-0004" / STOPPED).exists()


def test_later_pieces_of_a_trial_are_not_stopped_and_not_counted(tmp_path):
    scheduler = asha(tmp_path)
    results(scheduler, trial(1), [0.5] * 3)
    later = trial(2)
    later.config["piece"] = 1
    assert results(scheduler, later, [0.0] * 6) == [CONTINUE] * 6
    scheduler.on_trial_complete(None, later, {"epoch": 6, METRIC: 0.0})
    assert list(dict(scheduler._brackets[0]._rungs)[2].values()) == [0.5]

"""The searcher against a real durable study; Tune's part is played by calling it as Tune does."""

from __future__ import annotations

import json
import math

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from dmkd.config import Config
from dmkd.distill.s2sd import S2SD
from dmkd.errors import SweepError
from dmkd.space import Choice, Range
from sweeps.objectives import Objectives
from sweeps.search import StudySearch
from sweeps.space import Searched
from sweeps.study import SAMPLERS, enqueue, enqueue_failed, make_sampler, open_study, retries

BASE = Config(method=S2SD())
SEARCHED = Searched(BASE, {"method.temperature": Range(0.2, 2), "method.weight": Range(1, 1000, log=True)})
METRIC = "val/recall_at_1"


def search(folder, limit=6, points=(), **options) -> StudySearch:
    study = open_study(folder, "s", options.pop("sampler", "tpe"), seed=5)
    enqueue(study, SEARCHED, list(points))
    return StudySearch(study, SEARCHED, objectives=Objectives(METRIC), epochs=4, limit=limit, **options)


def result(epoch, value):
    return {"epoch": epoch, METRIC: value}


def states(folder):
    return [(trial.number, trial.state.name) for trial in open_study(folder, "s").trials]


def test_what_ends_how_it_stands_in_the_study(tmp_path):
    searcher = search(tmp_path)
    jobs = {name: searcher.suggest(name) for name in "abcdef"}
    assert [job["number"] for job in jobs.values()] == list(range(6))
    assert jobs["a"]["key"] == "trial-0000"
    assert jobs["a"]["values"] == {"method.temperature": 1.0, "method.weight": 50.0}
    for epoch in (1, 2, 3):
        searcher.on_trial_result("a", result(epoch, epoch / 10))
    searcher.on_trial_result("a", result(3, 0.9))  # a worker that was restarted repeats a step
    searcher.on_trial_complete("a", result(4, 0.4))
    searcher.on_trial_result("b", result(1, 0.1))
    searcher.on_trial_complete("b", result(2, 0.2))
    searcher.on_trial_result("c", result(1, math.nan))
    searcher.on_trial_complete("c", {"epoch": 1, "failed": "TrainingError: term metric is nan at step 7"})
    searcher.on_trial_complete("d", result(4, math.nan))
    searcher.on_trial_complete("e", None, error=True)
    searcher.on_trial_complete("f", {"epoch": 4})
    assert searcher.suggest("g") == Searcher.FINISHED

    complete, pruned, nan, last_nan, died, silent = open_study(tmp_path, "s").trials
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 0.4)
    assert complete.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {1: 0.1, 2: 0.2})
    assert pruned.user_attrs["reason"] == "stopped early after epoch 2 of 4"
    assert [trial.state for trial in (nan, last_nan, died, silent)] == [TrialState.FAIL] * 4
    assert nan.user_attrs["reason"] == "TrainingError: term metric is nan at step 7"
    assert nan.intermediate_values == {}
    assert "nan after epoch 4" in last_nan.user_attrs["reason"]
    assert "worker process" in died.user_attrs["reason"]
    assert "was not measured" in silent.user_attrs["reason"]


def test_a_new_driver_goes_on_with_running_then_enqueued_then_new_trials(tmp_path):
    first = search(tmp_path, points=[{"method.temperature": 0.5, "method.weight": 7.0}])
    started = [first.suggest(name) for name in "ab"]
    first.on_trial_complete("a", result(4, 0.3))
    del first  # the driver dies while trial 1 runs
    second = search(
        tmp_path,
        limit=4,
        points=[{"method.temperature": 0.5, "method.weight": 7.0}, {"method.temperature": 0.6, "method.weight": 8.0}],
    )
    assert second.left == 3
    again, enqueued, new = (second.suggest(name) for name in "xyz")
    assert again == started[1]
    assert enqueued["number"] == 2
    assert enqueued["values"] == {"method.temperature": 0.6, "method.weight": 8.0}
    assert new["number"] == 3
    assert second.suggest("w") == Searcher.FINISHED


def test_epochs_that_a_dead_driver_did_not_hear_of_are_in_the_study(tmp_path):
    searcher = search(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", result(1, 0.1) | {"history": [[1, 0.1]]})
    again = search(tmp_path)
    again.suggest("b")
    again.on_trial_result("b", result(4, 0.4) | {"history": [[1, 0.1], [2, 0.2], [3, math.nan], [4, 0.4]]})
    again.on_trial_complete("b", result(4, 0.4) | {"history": [[1, 0.1], [2, 0.2], [3, math.nan], [4, 0.4]]})
    assert again.study.trials[0].intermediate_values == {1: 0.1, 2: 0.2, 4: 0.4}


def test_a_trial_killed_between_ask_and_its_parameters_is_completed(tmp_path):
    study = open_study(tmp_path, "s")
    study.ask()
    assert set(search(tmp_path).suggest("a")["values"]) == {"method.temperature", "method.weight"}


def test_failed_trials_run_again_once_beside_the_planned_ones(tmp_path):
    searcher = search(tmp_path, limit=2)
    jobs = [searcher.suggest(name) for name in "ab"]
    searcher.on_trial_complete("a", result(4, 0.3))
    searcher.on_trial_complete("b", None, error=True)
    study = open_study(tmp_path, "s")
    for _ in range(2):
        enqueue_failed(study)
    assert retries(study) == 1
    again = search(tmp_path, limit=2 + retries(study))
    job = again.suggest("c")
    assert (job["number"], job["values"]) == (2, jobs[1]["values"])
    assert open_study(tmp_path, "s").trials[2].user_attrs["retry_of"] == 1
    assert again.suggest("d") == Searcher.FINISHED


def test_refused_proposals_do_not_count_and_trial_zero_is_never_refused(tmp_path):
    searcher = search(
        tmp_path, limit=3, accept=lambda values: "" if values["method.weight"] < 30 else "too heavy", sampler="random"
    )
    jobs = [searcher.suggest(name) for name in "abc"]
    assert jobs[0]["values"]["method.weight"] == 50.0
    assert all(job["values"]["method.weight"] < 30 for job in jobs[1:])
    assert searcher.suggest("d") == Searcher.FINISHED
    refused = [trial for trial in searcher.study.trials if trial.user_attrs.get("skipped")]
    assert refused
    assert all(trial.params["method.weight"] >= 30 and trial.user_attrs["reason"] == "too heavy" for trial in refused)


def test_a_configuration_is_not_tried_twice_unless_it_failed(tmp_path):
    """Of six configurations each is run once, then the search is over; a retry is the same configuration, on purpose."""
    space = {"method.temperature": Choice((0.5, 1.0, 2.0)), "student.dim": Choice((64, 128))}
    searched = Searched(BASE, space)
    study = open_study(tmp_path, "s", "tpe", seed=1)
    enqueue(study, searched, [])
    searcher = StudySearch(study, searched, objectives=Objectives(METRIC), epochs=1, limit=20)
    seen = []
    for number in range(20):
        job = searcher.suggest(str(number))
        if not isinstance(job, dict):
            break
        seen.append(tuple(job["values"].values()))
        searcher.on_trial_complete(str(number), result(1, job["values"]["method.temperature"]))
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 6
    assert searcher.over
    refused = [trial for trial in study.trials if trial.user_attrs.get("skipped")]
    assert refused
    assert all("once more" in trial.user_attrs["reason"] for trial in refused)


def test_no_new_trial_when_the_time_is_up(tmp_path):
    searcher = search(tmp_path, closed=lambda longest, spent: True)
    assert searcher.suggest("a") == Searcher.FINISHED
    assert states(tmp_path) == [(0, "WAITING")]


def test_saved_and_restored_by_number_alone(tmp_path):
    searcher = search(tmp_path / "study")
    job = searcher.suggest("a")
    searcher.save(str(tmp_path / "state"))
    assert json.loads((tmp_path / "state").read_text()) == {"a": [0, 0]}
    again = search(tmp_path / "study")
    again.restore(str(tmp_path / "state"))
    assert again.left == 5
    again.on_trial_complete("a", result(4, 0.7))
    assert again.study.trials[job["number"]].value == 0.7


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "cmaes"])
def test_every_sampler_is_seeded_and_proposes_inside_the_space(tmp_path, name):
    values = []
    for folder in ("one", "two"):
        searcher = search(tmp_path / folder, limit=13, sampler=name)
        for trial in range(13):
            job = searcher.suggest(str(trial))
            assert 0.2 <= job["values"]["method.temperature"] <= 2
            searcher.on_trial_complete(str(trial), result(4, -((job["values"]["method.temperature"] - 1.5) ** 2)))
        values.append([trial.params for trial in searcher.study.trials])
    assert values[0] == values[1]
    assert len({tuple(point.values()) for point in values[0]}) > 10


def test_an_unknown_sampler_names_the_nearest():
    with pytest.raises(SweepError, match="did you mean 'random'"):
        make_sampler("randon", 0)


def test_tpe_finds_the_better_half_more_often_than_chance(tmp_path):
    searcher = search(tmp_path, limit=40)
    for trial in range(40):
        job = searcher.suggest(str(trial))
        searcher.on_trial_complete(str(trial), result(4, -abs(math.log(job["values"]["method.weight"] / 200))))
    late = [trial.params["method.weight"] for trial in searcher.study.trials[20:]]
    assert sum(100 < weight < 400 for weight in late) > 10  # chance: 4 of 20
    assert isinstance(searcher.study.sampler, optuna.samplers.TPESampler)

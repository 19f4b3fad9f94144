"""Data sets arrive as MLflow's own run inputs, once, whoever sends them and however often."""

from __future__ import annotations

import json
import threading
import time

import pytest

from tracking import datasets
from tracking.client import connect
from tracking.errors import TrackingError
from tracking.runs import log_run, start_run, sync

PARTS = {"training": 84, "validation": 20, "test": 100}


def tell(run, digest: str = "0123456789abcdef") -> None:
    for context, count in PARTS.items():
        run.log_dataset(f"signs ({context})", digest, context, source="/pictures/signs", profile={"pictures": count})


def inputs(uri: str, run_id: str) -> list[tuple[str, str, str, int]]:
    """As MLflow gives them back: name, digest, context, pictures."""
    found = connect(uri).get_run(run_id).inputs.dataset_inputs
    return sorted(
        (
            one.dataset.name,
            one.dataset.digest,
            {tag.key: tag.value for tag in one.tags}["mlflow.data.context"],
            json.loads(one.dataset.profile)["pictures"],
        )
        for one in found
    )


WANTED = sorted((f"signs ({context})", "0123456789abcdef", context, count) for context, count in PARTS.items())


def test_a_run_shows_each_part_once_even_if_it_is_told_again_by_the_next_process(uri):
    experiment = f"datasets/{time.time_ns()}"
    for _ in range(2):
        with log_run(uri, experiment, "trial", params={}, tags={}, key="one") as run:
            tell(run)
            tell(run)
    assert inputs(uri, run.id) == WANTED
    with log_run(uri, experiment, "other", params={}, tags={}, key="two") as other:
        tell(other)
        tell(other, "another")
    assert len(inputs(uri, other.id)) == 2 * len(PARTS)
    assert inputs(uri, run.id) == WANTED


def test_what_was_told_while_the_server_was_away_arrives_once(line, server):
    line.down()
    run = start_run(line.uri, f"datasets/{time.time_ns()}", "trial", params={}, tags={}, patience=0.1)
    tell(run)
    assert not run.finish()
    line.up()
    assert sync().delivered == 1
    assert sync().delivered == 0
    experiment = connect(server).get_experiment_by_name(run._spool.header["experiment"])
    (found,) = connect(server).search_runs([experiment.experiment_id])
    assert inputs(server, found.info.run_id) == WANTED


def test_runs_that_tell_of_the_same_new_data_set_at_once_all_have_it(server):
    experiment = f"datasets/{time.time_ns()}"
    runs = [start_run(server, experiment, f"trial {number}", params={}, tags={}) for number in range(6)]
    start = threading.Barrier(len(runs))

    def write(run) -> None:
        start.wait()
        tell(run)
        assert run.finish()

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [inputs(server, str(run.id)) for run in runs] == [WANTED] * len(runs)


@pytest.mark.parametrize("changed", [{"context": "eval"}, {"digest": "x" * 37}, {"digest": ""}, {"name": ""}])
def test_what_mlflow_would_refuse_is_refused_at_once(changed):
    told = {"name": "signs", "digest": "0", "context": "test", "source": "", "profile": {}}
    with pytest.raises(TrackingError, match="wanted"):
        datasets.event(**(told | changed))

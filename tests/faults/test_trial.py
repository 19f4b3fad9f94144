"""A trial in this process, without Ray: what it leaves on disk and in the tracker when something goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dmkd.config import Config
from dmkd.errors import LoaderDied
from dmkd.space import override
from sweeps import trial as trials
from sweeps.folder import read_done
from sweeps.shared import Shared
from sweeps.trial import Trial
from tests.full_disk import FullDisk
from tracking.reading import load_runs


class World:
    """A storage and a database, and trials made on them."""

    def __init__(self, folder: Path, base: Config, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self.shared = Shared(
            base=override(base, {"evaluation.nmi": False}),
            folder=folder / "trials",
            tracking_uri=uri,
            experiment="e",
            sweep="s",
            parent=None,
            objective="val/recall_at_1",
            tags={},
            spool=folder / "spool",
            driver="d",
        )

    def trial(self, key: str = "t", **values: Any) -> Trial:
        made = Trial.__new__(Trial)
        made._trial_info = None
        made.setup({"run": {"key": key, "values": values, "tags": {"dmkd.label": key}}}, self.shared)
        made.begin()
        assert made.status == "interrupted", made.reason
        return made

    def finish(self, trial: Trial) -> None:
        while not trial.step()["done"]:
            pass
        assert trial.status == "finished", trial.reason

    def points(self, key: str = "t") -> list[tuple[str, int, float]]:
        """Every point of a run but those that time gives."""
        query = (
            "SELECT metrics.key, step, metrics.value FROM metrics JOIN tags USING (run_uuid) WHERE tags.key = 'dmkd.run_key' "
            "AND tags.value = ? AND metrics.key NOT LIKE 'cost/%' ORDER BY metrics.key, step"
        )
        with closing(sqlite3.connect(self.uri.removeprefix("sqlite:///"))) as database:
            return database.execute(query, (f"s/{key}",)).fetchall()

    def row(self) -> dict[str, Any]:
        return load_runs(self.uri, "e").row(0, named=True)


@pytest.fixture
def world(tmp_path: Path, teacher: Config, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("DMKD_STATE", str(tmp_path / "state"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    yield World(tmp_path, override(teacher, {"optim.epochs": 3}), database)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def undisturbed(world: World) -> list[tuple[str, int, float]]:
    world.finish(world.trial("whole"))
    points = world.points("whole")
    assert {step for _, step, _ in points} == {1, 2, 3}
    return points


def test_a_late_writer_changes_nothing_and_stops(
    world: World, undisturbed: list[tuple[str, int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was cut off goes on with its epoch while another has taken its trial over."""
    late = world.trial()
    late.step()
    other = world.trial()
    other.step()
    before = snapshot(world.folder / "trials" / "t")

    def ended(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(trials.os, "_exit", ended)
    with pytest.raises(SystemExit, match="0"):
        late.step()
    assert snapshot(world.folder / "trials" / "t") == before
    late.run._courier.close(30)  # type: ignore[union-attr]
    world.finish(other)
    assert world.points() == undisturbed
    assert set(load_runs(world.uri, "e")["status"]) == {"FINISHED"}
    assert list((world.folder / "spool").glob("*/run.json")) == []


def test_what_befalls_a_late_writer_is_no_failure_of_the_trial(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    late = world.trial()
    other = world.trial()

    def broken() -> Iterator[Any]:
        raise RuntimeError("its storage went away")
        yield

    def ended(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(trials.os, "_exit", ended)
    late.epochs = broken()
    with pytest.raises(SystemExit):
        late.step()
    assert read_done(world.folder / "trials" / "t") is None
    other.cleanup()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("heartbeat", "."))
    }


def test_sigterm_in_the_middle_of_an_epoch_ends_in_order_and_resumes_bit_for_bit(
    world: World, undisturbed: list[tuple[str, int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = world.trial()
    trial.step()
    monkeypatch.setenv("DMKD_GRACE", "0")  # no time to finish the epoch
    steps = trial.epochs

    def told() -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from steps

    trial.epochs = told()
    with pytest.raises(SystemExit):
        trial.step()
    trial.run._courier.join(60)  # type: ignore[union-attr]
    assert world.row()["status"] == "FINISHED"
    killed = load_runs(world.uri, "e").row(1, named=True)
    assert killed["status"] == "KILLED"
    assert killed["tags.dmkd.status_reason"] == "preempted (SIGTERM): goes on from epoch 1"
    assert json.loads((world.folder / "trials/t/attempts.json").read_text())["deaths"] == []
    again = world.trial()
    assert again.progress["epoch"] == 1
    world.finish(again)
    assert world.points() == undisturbed


def test_an_epoch_that_is_nearly_over_is_finished_within_the_grace_time(world: World) -> None:
    trial = world.trial()
    trial.step()
    steps = trial.epochs

    def told() -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield next(steps)

    trial.epochs = told()
    with pytest.raises(SystemExit):
        trial.step()
    assert world.trial().progress["epoch"] == 2


def test_a_damaged_state_is_refused_the_one_before_is_used_and_the_run_says_so(
    world: World, undisturbed: list[tuple[str, int, float]]
) -> None:
    trial = world.trial()
    trial.step()
    trial.step()
    trial.cleanup()
    newest = max((world.folder / "trials/t/state").glob("state-*")) / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="truncated or altered"):
        again = world.trial()
    world.finish(again)
    assert world.points() == undisturbed
    told = load_runs(world.uri, "e").row(1, named=True)["tags.dmkd.resume"]
    assert told.startswith("from epoch 1, not 2: ")
    assert "truncated or altered" in told


def test_a_node_that_takes_its_disk_along_leaves_no_gap(world: World, undisturbed: list[tuple[str, int, float]]) -> None:
    """What it had spooled is lost: the trial's next worker sends again all that led to its state, with the same stamps."""
    trial = world.trial()
    trial.run._courier.poke = lambda: None  # type: ignore[union-attr, method-assign]
    trial.step()
    trial.step()
    trial.watchdog.stop()  # type: ignore[union-attr]
    shutil.rmtree(world.folder / "spool")
    again = world.trial()
    assert again.progress["epoch"] == 2
    world.finish(again)
    assert world.points() == undisturbed


def test_a_full_disk_fails_the_trial_with_the_reason_and_leaves_what_was_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = world.trial()
    trial.step()
    before = sorted((world.folder / "trials/t/state").iterdir())
    with monkeypatch.context() as patch:
        FullDisk(patch, 3000)
        result = trial.step()
    assert result["failed"].startswith("CheckpointError")
    assert "No space left" in result["failed"]
    assert "what was there before is unchanged" in result["failed"]
    assert sorted((world.folder / "trials/t/state").iterdir()) == before


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_dead_loading_process_is_retried_once(world: World, deaths: int) -> None:
    for _ in range(deaths):
        trial = world.trial()

        def died() -> Iterator[Any]:
            raise LoaderDied("a data-loading process died (killed)")
            yield

        trial.epochs = died()
        with pytest.raises(LoaderDied):
            trial.step()
    if deaths == 1:
        world.finish(world.trial())
        assert world.row()["status"] == "FINISHED"
        return
    again = Trial.__new__(Trial)
    again._trial_info = None
    again.setup({"run": {"key": "t", "values": {}, "tags": {"dmkd.label": "t"}}}, world.shared)
    assert "a data-loading process died" in again.step()["failed"]
    assert read_done(world.folder / "trials/t")["status"] == "failed"  # type: ignore[index]
    assert world.row()["status"] == "FAILED"


@pytest.mark.parametrize("pruned", [False, True])
def test_a_trial_that_is_stopped_leaves_no_loading_process(world: World, pruned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made before the next epoch is asked for, and would hold the files of its run."""
    trial = world.trial(**{"data.workers": 1})
    trial.step()
    assert len(multiprocessing.active_children()) == 1
    assert trial.run is not None
    left: list[int] = []
    close = trial.run._sender.spool.release
    monkeypatch.setattr(
        trial.run._sender.spool, "release", lambda: (left.append(len(multiprocessing.active_children())), close())
    )
    if pruned:
        world.shared.storage.stop(world.folder / "trials/t", "pruned by a test")
    trial.cleanup()
    assert left[-1:] == [0]


def test_a_worker_that_tune_makes_and_does_not_use_disturbs_nothing(
    world: World, undisturbed: list[tuple[str, int, float]]
) -> None:
    """Tune starts a worker of its own for a trial, then gives the trial to one that became free: the first must not take it."""
    at_work = world.trial()
    at_work.step()
    before = snapshot(world.folder / "trials" / "t")
    spare = Trial.__new__(Trial)
    spare._trial_info = None
    spare.setup({"run": {"key": "t", "values": {}, "tags": {}}}, world.shared)
    spare.cleanup()
    assert snapshot(world.folder / "trials" / "t") == before
    world.finish(at_work)
    assert world.points() == undisturbed
    assert set(load_runs(world.uri, "e")["status"]) == {"FINISHED"}


def test_a_node_with_other_pictures_trains_nothing(world: World) -> None:
    """It may have joined long after the nodes were looked at."""
    from dmkd.data.datasets import load_dataset

    made = Trial.__new__(Trial)
    made._trial_info = None
    tags = {"dmkd.label": "t", "dmkd.data_fingerprint": "0123456789abcdef"}
    made.setup({"run": {"key": "t", "values": {}, "tags": tags}}, world.shared)
    reason = made.step()["failed"]
    here = load_dataset(world.shared.base.data).fingerprint
    assert f"other pictures (fingerprint {here}) than the sweep was planned for (0123456789abcdef)" in reason
    assert world.row()["status"] == "FAILED"
    assert not (world.folder / "trials/t/state").exists()
    (world.folder / "trials/t/done.json").unlink()
    made.setup({"run": {"key": "t", "values": {}, "tags": tags | {"dmkd.data_fingerprint": here}}}, world.shared)
    world.finish(made)

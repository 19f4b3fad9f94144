"""A trial whose folder lies in a bucket, in this process, without Ray: as `tests/faults/test_trial.py` does it with a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmkd.config import Config
from dmkd.space import override
from sweeps import trial as trials
from sweeps.bucket import store as stores
from sweeps.bucket.head import Head, read_head
from sweeps.bucket.storage import Bucket
from sweeps.bucket.trial import BucketFence
from sweeps.fence import Superseded
from sweeps.trial import Trial
from tests.faults.test_trial import World
from tests.sweeps.bucket.server import Server
from tracking.reading import load_runs

BELOW = "mine/one/"


class Bucketed(World):
    """Every worker as on a node of its own: what an earlier one had on its disk is deleted, but for its spool."""

    def __init__(self, folder: Path, base: Config, uri: str, bucket: Bucket) -> None:
        super().__init__(folder, base, uri)
        self.bucket = bucket
        self.shared = replace(self.shared, storage=replace(bucket, lease=1))

    def head(self, key: str = "t") -> Head:
        found = read_head(self.bucket.store, f"heads/{key}.json")
        assert found is not None
        return found[0]

    def text(self, name: str, key: str = "t") -> Any:
        return json.loads(self.head(key).text(name) or "{}")

    def lose_node(self, trial: Trial) -> None:
        """Its process is gone without a word, its disk with it."""
        trial.watchdog.stop()  # type: ignore[union-attr]
        trial.fence.beats.stop()  # type: ignore[union-attr]
        trial.run._courier.poke = lambda: None  # type: ignore[union-attr, method-assign]
        shutil.rmtree(trial.folder)

    def objects(self) -> list[str]:
        """Names of the objects that hold files of trials."""
        return sorted(self.bucket.store.sizes("trials/"))


@pytest.fixture
def world(tmp_path: Path, teacher: Config, database: str, bucket: Bucket) -> Iterator[Bucketed]:
    with handlers_kept():
        yield Bucketed(tmp_path, override(teacher, {"optim.epochs": 3}), database, bucket)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """A trial takes the signals of its process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, teacher: Config, migrated: Path) -> list[tuple[str, int, float]]:
    """In a folder."""
    place = tmp_path_factory.mktemp("undisturbed")
    shutil.copyfile(migrated, place / "mlflow.db")
    world = World(place, override(teacher, {"optim.epochs": 3}), f"sqlite:///{place}/mlflow.db")
    with handlers_kept():
        world.finish(world.trial("whole"))
    return world.points("whole")


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(trials.os, "_exit", ended)


def test_a_beat_on_its_way_when_a_trial_leaves_is_deleted_too(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_its_way, write = threading.Event(), stores.Store.write

    def slow(store: stores.Store, name: str, *content: Any, **options: Any) -> None:
        if name.startswith("beats/"):
            on_its_way.set()
            time.sleep(0.5)
        write(store, name, *content, **options)

    with bucket.held(bucket.root):
        monkeypatch.setattr(stores.Store, "write", slow)
        fence = bucket.leased().take(tmp_path / "node" / "work" / "t")
        assert on_its_way.wait(10)
        fence.close()
        time.sleep(1)
        assert bucket.store.sizes("beats/") == {}


def test_a_lost_node_costs_its_epoch_and_the_bucket_keeps_what_a_folder_would(
    world: Bucketed, undisturbed: list[tuple[str, int, float]]
) -> None:
    lost = world.trial()
    lost.step()
    lost.step()
    world.lose_node(lost)
    assert world.text("progress.json")["epoch"] == 2
    again = world.trial()
    assert again.progress["epoch"] == 2
    assert world.head().token == 2
    world.finish(again)
    assert world.points() == undisturbed
    again.cleanup()
    assert world.text("done.json")["status"] == "finished"
    assert not again.folder.exists()
    assert [name for name in world.head().files if name.startswith("state/")] == []
    assert set(world.objects()) == world.head().objects()
    assert world.bucket.store.sizes("beats/") == {}
    third = Trial.__new__(Trial)  # its driver did not hear that it was over
    third._trial_info = None
    third.setup({"run": {"key": "t", "values": {}, "tags": {}}}, world.shared)
    assert third.step()["done"] is True
    assert third.progress["epoch"] == 3
    third.cleanup()


def test_a_late_writer_changes_nothing_that_counts_and_stops(
    world: Bucketed, undisturbed: list[tuple[str, int, float]], exits: None
) -> None:
    late = world.trial()
    late.step()
    other = world.trial()
    other.step()
    before = world.head()
    kept = {name: world.bucket.store.read(name) for name in before.objects()}
    with pytest.raises(SystemExit, match="0"):
        late.step()
    assert world.head() == before
    assert {name: world.bucket.store.read(name) for name in before.objects()} == kept
    assert set(world.objects()) > before.objects(), "it had put its epoch, which nobody names"
    late.run._courier.close(30)  # type: ignore[union-attr]
    world.finish(other)
    assert world.points() == undisturbed
    other.cleanup()
    late.fence.close()  # type: ignore[union-attr]
    assert set(world.objects()) == world.head().objects()
    assert set(load_runs(world.uri, "e")["status"]) == {"FINISHED"}


@pytest.mark.parametrize("harm", ["truncated", "altered", "deleted"])
def test_a_damaged_state_is_refused_the_epoch_before_is_used_and_the_run_says_so(
    world: Bucketed, undisturbed: list[tuple[str, int, float]], s3: Any, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = world.trial()
    trial.step()
    trial.step()
    trial.cleanup()
    damage(s3, world.head(), "state/state-00000002/state.pt", harm)
    with pytest.warns(UserWarning, match=r"state-00000002.*going on from state-00000001"):
        again = world.trial()
    assert "state/state-00000002/state.pt): missing, truncated or altered; left out" in capsys.readouterr().err
    world.finish(again)
    assert world.points() == undisturbed
    told = world.row()["tags.dmkd.resume"]
    assert told.startswith("from epoch 1, not 2: ")


def damage(s3: Any, head: Head, name: str, harm: str) -> None:
    place = {"Bucket": "sweeps", "Key": BELOW + str(head.files[name]["at"])}
    content = s3.get_object(**place)["Body"].read()
    changed = {"truncated": content[:-100], "altered": content[:-1] + bytes([content[-1] ^ 1])}
    s3.delete_object(**place) if harm == "deleted" else s3.put_object(**place, Body=changed[harm])


def test_a_damaged_network_is_no_result_the_trial_starts_afresh(
    world: Bucketed, undisturbed: list[tuple[str, int, float]], s3: Any
) -> None:
    trial = world.trial()
    trial.step()
    trial.cleanup()
    damage(s3, world.head(), "checkpoint/weights.safetensors", "altered")
    again = world.trial()
    assert again.progress["epoch"] == 0
    world.finish(again)
    assert world.points() == undisturbed
    assert "started afresh" in world.row()["tags.dmkd.resume"]


def test_a_store_that_is_away_for_a_while_costs_nothing(
    world: Bucketed, undisturbed: list[tuple[str, int, float]], server: Server
) -> None:
    trial = world.trial()
    trial.step()
    os.kill(server.process.pid, signal.SIGSTOP)
    back = threading.Timer(4.0, os.kill, (server.process.pid, signal.SIGCONT))
    back.start()
    world.finish(trial)
    assert not back.is_alive(), "it waited"
    assert world.points() == undisturbed


def test_a_store_that_stays_away_ends_the_worker_and_not_the_trial(
    world: Bucketed, undisturbed: list[tuple[str, int, float]], exits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = world.trial()
    trial.step()
    with monkeypatch.context() as patch:
        patch.setattr(stores, "PATIENCE", 0.0)
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        stores._client.cache_clear()
        with pytest.raises(SystemExit):
            trial.step()
    stores._client.cache_clear()
    world.lose_node(trial)
    again = world.trial()
    assert again.progress["epoch"] == 1
    world.finish(again)
    assert world.points() == undisturbed


def test_a_worker_of_an_earlier_driver_takes_nothing(world: Bucketed) -> None:
    newer, older = replace(world.bucket, lease=2), replace(world.bucket, lease=1)
    taken = newer.take(world.folder / "a" / "work" / "t")
    with pytest.raises(Superseded, match="a later driver has taken this sweep over"):
        older.take(world.folder / "b" / "work" / "t")
    assert taken.mine()
    assert isinstance(taken, BucketFence)
    taken.close()


def test_what_the_watchdog_notes_is_kept_though_the_process_ends_itself(world: Bucketed) -> None:
    trial = world.trial()
    (trial.folder / "hung.txt").write_text("stacks")
    trial.attempts.died("no batch was done for 5 s")
    trial.fence.keep()  # type: ignore[union-attr]
    world.lose_node(trial)
    assert world.head().text("hung.txt") == "stacks"
    assert world.text("attempts.json")["deaths"] == [[0, "no batch was done for 5 s"]]


def test_a_trial_that_the_scheduler_stops_finds_the_mark_and_keeps_its_curve_alone(world: Bucketed) -> None:
    trial = world.trial()
    trial.step()
    world.bucket.stop(world.folder / "trials" / "t", "pruned after epoch 1 of 3\n")
    trial.cleanup()
    assert world.text("done.json")["status"] == "pruned"
    assert world.text("done.json")["reason"] == "pruned after epoch 1 of 3"
    assert {name.partition("/")[0] for name in world.head().files} & {"state", "checkpoint"} == set()
    assert set(world.objects()) == world.head().objects()
    world.shared.storage.take(world.folder / "x" / "work" / "t").close()
    assert world.bucket.stopped(Path("t")) is None, "a mark is of one worker"

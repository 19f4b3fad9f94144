"""The driver's side of a bucket: one driver a sweep, what it resumes from, what it sees and changes of its trials."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmkd.errors import SweepError
from sweeps.bucket.head import Head, change_head, read_head
from sweeps.bucket.lease import DRIVER, lease_of
from sweeps.bucket.storage import Bucket
from sweeps.bucket.store import Conflict
from sweeps.fence import Superseded
from sweeps.folder import read_done, read_progress, write_done, write_progress
from sweeps.guard import Guard
from sweeps.options import Options
from sweeps.places import find_places
from sweeps.retention import find_waste
from sweeps.study import open_study
from sweeps.unfit import forget, known, left
from tests.sweeps.test_interruptions import wait_for
from tests.sweeps.test_search import result, search
from tracking.heartbeat import HEARTBEAT, read_beat


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_HEARTBEAT", "0.3")


def by_another(bucket: Bucket, **facts: Any) -> None:
    """The driver's head as one of another machine wrote it."""
    old, etag = read_head(bucket.store, DRIVER)  # type: ignore[misc]
    who = {**old.who, "machine": "another"}
    change_head(bucket.store, DRIVER, old, etag, replace(old, who=who, facts={**old.facts, "ended": False, **facts}))


def taken_over(bucket: Bucket) -> Head:
    """The driver's head once another driver has it."""
    while True:
        with suppress(Conflict):  # the first one has just beaten
            old, etag = read_head(bucket.store, DRIVER)  # type: ignore[misc]
            return change_head(bucket.store, DRIVER, old, etag, replace(old, token=old.token + 1))[0]


@contextmanager
def beating(bucket: Bucket) -> Iterator[None]:
    """A driver on another machine that lives."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(0.2):
            by_another(bucket, beat=(count := count + 1))

    by_another(bucket)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_what_a_driver_put_is_there_for_the_next_wherever_it_runs(bucket: Bucket, tmp_path: Path) -> None:
    with bucket.held(bucket.root):
        first = search(bucket.root)
        jobs = {name: first.suggest(name) for name in "ab"}
        first.on_trial_complete("a", result(4, 0.3))
        (bucket.root / "sweep.json").write_text("{}")
        (bucket.root / "given" / "x").mkdir(parents=True)
        (bucket.root / "given" / "x" / "model.json").write_text("teacher")
        bucket.save()
        (bucket.root / "torn").write_text("never saved, for it was killed")
        lease = lease_of(bucket.store)
        assert lease is not None
        lease._over.set()
        lease.lost = "killed"
    by_another(bucket)
    elsewhere = replace(bucket, root=tmp_path / "another" / "machine")
    began = time.monotonic()
    with elsewhere.held(elsewhere.root):
        assert time.monotonic() - began > 0.9, "the first is watched for three beats"
        assert {path.name for path in elsewhere.root.iterdir()} == {"study.journal", "sweep.json", "given"}
        second = search(elsewhere.root)
        assert second.suggest("x") == jobs["b"]
        assert [trial.value for trial in second.study.trials[:2]] == [0.3, None]
        elsewhere.save()
    node = replace(bucket, root=tmp_path / "a" / "node")
    for content in ("of a sweep that was deleted", "teacher"):
        (node.root / "given" / "x").mkdir(parents=True, exist_ok=True)
        (node.root / "given" / "x" / "model.json").write_text(content)
        node.fetch(str(node.root / "given" / "x"), "/elsewhere", "")
        assert (node.root / "given" / "x" / "model.json").read_text() == "teacher"
    assert Bucket.of("s3://sweeps/mine", "one").root == elsewhere.root, "every node works where the driver says"


def test_a_trial_is_handed_out_only_when_the_bucket_knows_of_it(bucket: Bucket, tmp_path: Path) -> None:
    """Else a driver that resumes would give its number, and so its folder, to other values."""
    with bucket.held(bucket.root):
        searcher = search(bucket.root)
        searcher.save_study = bucket.save
        for name in "abc":
            number = searcher.suggest(name)["number"]  # type: ignore[index]
            head = read_head(bucket.store, DRIVER)[0]  # type: ignore[index]
            put = head.text("study.journal") or bucket.store.read(head.files["study.journal"]["at"])[0].decode()  # type: ignore[index]
            assert put == (bucket.root / "study.journal").read_text()
            there = tmp_path / name
            there.mkdir()
            (there / "study.journal").write_text(put)
            assert open_study(there, "s").trials[number].params == searcher.study.trials[number].params != {}


def test_a_second_driver_is_refused_while_the_first_lives(bucket: Bucket) -> None:
    told = pytest.raises(SweepError, match=r"s3://sweeps/mine/one is already running \(pid \d+ on ")
    with bucket.held(bucket.root), told, bucket.held(bucket.root):
        pass
    with bucket.held(bucket.root):
        pass  # the first has ended: nothing is waited for
    with beating(bucket), pytest.raises(SweepError, match="is already running"), bucket.held(bucket.root):
        pass


def test_a_driver_that_was_cut_off_changes_nothing_and_stops(bucket: Bucket, tmp_path: Path) -> None:
    with bucket.held(bucket.root):
        (bucket.root / "sweep.json").write_text("mine")
        bucket.save()
        newer = taken_over(bucket)
        (bucket.root / "sweep.json").write_text("late")
        with pytest.raises(SweepError, match="another driver has taken this sweep over; this one stops"):
            bucket.save()
        guard = Guard(bucket.root / "trials", storage=bucket)
        time.sleep(0.2)
        with pytest.raises(SweepError, match="another driver has taken"):
            guard.on_step_end(0, [])
    assert read_head(bucket.store, DRIVER)[0] == newer  # type: ignore[index]


def test_the_beat_alone_tells_a_driver_that_it_was_cut_off(bucket: Bucket) -> None:
    with bucket.held(bucket.root):
        taken_over(bucket)
        wait_for(lambda: bool(lease_of(bucket.store).lost), 10)  # type: ignore[union-attr]


def test_the_driver_sees_its_trials_and_their_beats(bucket: Bucket, tmp_path: Path) -> None:
    trial = bucket.root / "trials" / "t"
    with bucket.held(bucket.root):
        fence = bucket.leased().take(tmp_path / "node" / "work" / "t")
        with fence.writing():
            write_progress(fence.folder, {"epoch": 3, "metrics": {"a": 1.0}})
            (fence.folder / "big").write_bytes(b"\xff" * 100)
        bucket.refresh(trial)
        assert read_progress(trial)["epoch"] == 3
        assert (read_beat(trial / "writer.json") or {})["token"] == 1
        assert not (trial / "big").exists()
        before = seen(trial)
        wait_for(lambda: seen(trial) > before + 1, 10)
        fence.beats.stop()  # type: ignore[attr-defined]
        time.sleep(0.7)
        before = seen(trial)
        time.sleep(0.7)
        assert seen(trial) == before, "a worker that is silent looks silent"
        with fence.writing():
            write_done(fence.folder, "failed", "x", {})
        bucket.refresh()
        assert (read_done(trial) or {})["reason"] == "x"
        bucket.amend(trial, drop=["done.json"])
        assert read_done(trial) is None
        with pytest.raises(Superseded), fence.writing():
            (fence.folder / "late").write_text("x")
    node = replace(bucket, root=tmp_path / "node")  # a plan is made before the sweep is held
    write_done(node.root / "trials" / "none", "finished", "of a sweep that was deleted", {})
    for name in ("t", "none"):
        node.refresh(node.root / "trials" / name)
    assert read_progress(node.root / "trials" / "t")["epoch"] == 3
    assert read_done(node.root / "trials" / "none") is None


def seen(trial: Path) -> int:
    return int((read_beat(trial / HEARTBEAT) or {}).get("beat", 0))


def test_where_the_store_is_away_nobody_is_silent(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trial = bucket.root / "trials" / "t"
    with bucket.held(bucket.root):
        fence = bucket.leased().take(tmp_path / "node" / "work" / "t")
        wait_for(lambda: seen(trial) > 0, 10)
        fence.beats.stop()  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:

            def away(*asked: Any, **more: Any) -> Any:
                raise SweepError("away")

            patch.setattr(type(bucket.store), "sizes", away)
            before = seen(trial)
            wait_for(lambda: seen(trial) > before + 2, 10)


def test_a_node_that_is_unfit_is_known_to_the_driver_and_to_workers_elsewhere(bucket: Bucket, tmp_path: Path) -> None:
    there = replace(bucket, root=tmp_path / "node")
    there.note(there.root / "unfit" / "n1.json", json.dumps({"reason": "other pictures"}))
    there.note(there.root / "unfit" / "n1.t.left", "")
    assert left(bucket.root, "t", bucket) == {"n1"}
    assert left(bucket.root, "t", bucket) == set(), "told once"
    assert known(bucket.root) == {"n1": "other pictures"}
    forget(bucket.root, bucket)
    bucket.bring(bucket.root / "unfit")
    assert known(bucket.root) == {}


def test_a_network_that_the_sweep_trained_is_fetched_by_every_node_and_a_damaged_one_is_refused(
    bucket: Bucket, s3: Any, tmp_path: Path
) -> None:
    fence = bucket.take(tmp_path / "trainer" / "work" / "teacher-1")
    with fence.writing():
        (fence.folder / "checkpoint").mkdir()
        (fence.folder / "checkpoint" / "weights.safetensors").write_bytes(b"\xff" * 99)
        (fence.folder / "checkpoint" / "model.json").write_text("{}")
    fence.close()
    node = replace(bucket, root=tmp_path / "node")
    place = node.root / "trials" / "teacher-1" / "checkpoint"
    node.fetch(str(place))
    assert sorted(path.name for path in place.iterdir()) == ["model.json", "weights.safetensors"]
    assert (place / "weights.safetensors").read_bytes() == b"\xff" * 99
    at = read_head(bucket.store, "heads/teacher-1.json")[0].files["checkpoint/weights.safetensors"]["at"]  # type: ignore[index]
    s3.put_object(Bucket="sweeps", Key=f"mine/one/{at}", Body=b"\xff" * 98)
    node.fetch(str(place))  # it is there, as it was
    other = replace(bucket, root=tmp_path / "other")
    with pytest.raises(SweepError, match="trials/teacher-1/checkpoint is damaged"):
        other.fetch(str(other.root / "trials" / "teacher-1" / "checkpoint"))
    assert not (other.root / "trials").exists()


def test_gc_frees_what_no_row_needs_and_what_no_head_names(
    bucket: Bucket, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    places = find_places(Options(storage="s3://sweeps/mine", tracking_uri=database), "one")
    with places.held():
        fence = bucket.leased().take(tmp_path / "node" / "work" / "t")
        with fence.writing():
            for name in ("state/state-1/state.pt", "checkpoint/weights.safetensors"):
                (fence.folder / name).parent.mkdir(parents=True)
                (fence.folder / name).write_bytes(b"\xff" * 5000 + name.encode())
            write_done(fence.folder, "finished", "", {})
        bucket.store.write("trials/t/1/late", b"x" * 7)
        (places.folder / "sweep.json").write_text(json.dumps({"id": "one-1", "finished": False}))
        assert find_waste("s3://sweeps/mine", database) == []
        (places.folder / "sweep.json").write_text(json.dumps({"id": "one-1", "finished": True}))
    waste = find_waste("s3://sweeps/mine", database)
    assert [(item.what.partition(": ")[2], item.bytes) for item in waste] == [
        ("state of t", 5000 + len("state/state-1/state.pt")),
        ("what no worker of t names", 7),
    ]
    for item in waste:
        item.delete()
    head = read_head(bucket.store, "heads/t.json")[0]  # type: ignore[index]
    assert set(bucket.store.sizes("trials/")) == head.objects()
    assert sorted(head.files) == ["checkpoint/weights.safetensors", "done.json"]
    assert not list(here.iterdir()), "nothing is left where it was typed"
    assert find_waste("s3://sweeps/mine", database) == []

"""What is kept of the last reading never shows: with it and without it, `load_runs` gives the same frame."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from mlflow.entities import Metric, RunTag

from benchmarks.many_runs import add_runs
from tracking import database as databases
from tracking import frames, marks, rest, run_cache
from tracking.client import connect, ensure_experiment
from tracking.looks import count_look
from tracking.places import sqlite_path
from tracking.reading import load_runs, newest_experiment
from tracking.runs import log_run, sync


@pytest.fixture(autouse=True)
def of_another_process(monkeypatch):
    """Each test begins without what this process holds of files that it read or wrote."""
    monkeypatch.setattr(run_cache, "_held", {})


@pytest.fixture
def many(database: str) -> str:
    """A database with 40 ended runs in the experiment "many"."""
    add(database, range(40))
    return database


def add(uri: str, numbers: range) -> None:
    experiment = ensure_experiment(uri, "many")
    path = sqlite_path(uri)
    assert path is not None
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        add_runs(connection, experiment, numbers, random.Random(numbers.start))


def read_again(uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[pl.DataFrame, list[int]]:
    """`load_runs`, which must equal a fresh reading; and how many runs were read from the database for it."""
    counts: list[int] = []
    completed = databases.completed

    def counted(connection, experiment, found, *, whole):
        counts.append(found.height)
        return completed(connection, experiment, found, whole=whole)

    with monkeypatch.context() as patched:
        patched.setattr(databases, "completed", counted)
        frame = load_runs(uri, "many")
        patched.setattr(run_cache, "write", lambda *_, **__: None)
        counted_then = counts.copy()
        assert frame.equals(load_runs(uri, "many", fresh=True))
    return frame, counted_then


@pytest.mark.parametrize("few", [databases.FEW, 0])
def test_only_what_changed_is_read_again(many, monkeypatch, few):
    monkeypatch.setattr(databases, "FEW", few)
    client = connect(many)
    first, counts = read_again(many, monkeypatch)
    assert (first.height, counts) == (40, [40])
    assert read_again(many, monkeypatch)[1] == []
    ids = first["run_id"].to_list()

    add(many, range(40, 41))
    assert read_again(many, monkeypatch)[1] == [1]
    client.set_tag(ids[3], "dmkd.seed", "9")  # as long as the value that it replaces
    client.log_batch(ids[5], metrics=[Metric("val/recall_at_1", 0.25, 2_000_000_000_000, 21)])
    client.log_batch(ids[6], metrics=[Metric("bad", float("nan"), 1, 0), Metric("high", float("inf"), 1, 0)])
    frame, counts = read_again(many, monkeypatch)
    assert counts == [3]
    rows = {row["run_id"]: row for row in frame.to_dicts()}
    assert rows[ids[3]]["tags.dmkd.seed"] == "9"
    assert rows[ids[5]]["metrics.val/recall_at_1"] == 0.25
    assert rows[ids[6]]["metrics.high"] == float("inf")

    client.delete_run(ids[6])
    frame, counts = read_again(many, monkeypatch)
    assert (counts, frame.height) == ([0], 40)
    assert "metrics.bad" not in frame.columns  # no run has it any more
    client.restore_run(ids[6])
    assert read_again(many, monkeypatch)[1] == [1]
    client.log_param(ids[7], "late", "1")
    client.rename_experiment(client.get_experiment_by_name("many").experiment_id, "some")
    assert load_runs(many, "some").equals(load_runs(many, "some", fresh=True))


def test_what_is_kept_of_another_experiment_is_not_written_again(many, monkeypatch):
    client = connect(many)
    other = client.create_run(ensure_experiment(many, "other")).info.run_id
    load_runs(many)
    folder = run_cache.folder_of(many)

    def kept(experiment: str) -> dict[str, object]:
        return dict(json.loads((folder / f"{ensure_experiment(many, experiment)}.json").read_text()))

    before = {name: kept(name) for name in ("many", "other")}
    monkeypatch.setattr(run_cache, "SPARED", 0.0)  # what is replaced is gone at once
    add(many, range(40, 41))
    assert load_runs(many).height == 42
    after = {name: kept(name) for name in ("many", "other")}
    assert (after["other"]["files"], after["many"]["files"] == before["many"]["files"]) == (before["other"]["files"], False)
    assert after["other"]["seen"] == after["many"]["seen"] != before["other"]["seen"]
    # And what happens to it later is seen: a new name, a tag, its end.
    client.rename_experiment(ensure_experiment(many, "other"), "renamed")
    assert load_runs(many)["experiment"].unique().sort().to_list() == ["many", "renamed"]
    client.set_tag(other, "dmkd.seed", "9")
    assert load_runs(many, "renamed")["tags.dmkd.seed"].to_list() == ["9"]
    client.delete_run(other)
    assert load_runs(many, "renamed").height == 0
    assert load_runs(many).equals(load_runs(many, fresh=True))


@pytest.mark.parametrize("anew", [False, True])
def test_few_changes_are_written_beside_the_others(many, monkeypatch, anew):
    """The large file stays until more than a twentieth has changed; another process reads the same of the two."""
    add(many, range(40, 100))
    client, ids = connect(many), load_runs(many, "many")["run_id"].to_list()
    folder, place = run_cache.folder_of(many), ensure_experiment(many, "many")

    def files() -> list[str]:
        if anew:
            run_cache._held.clear()
        return [name for name, _ in json.loads((folder / f"{place}.json").read_text())["files"]]

    def reading() -> int:
        (count,) = read_again(many, monkeypatch)[1]
        return count

    (large,) = files()
    client.set_tag(ids[7], "mine", "yes")  # a column that was not there
    assert reading() == 1
    assert (files()[0], len(files())) == (large, 2)
    client.delete_run(ids[8])
    assert reading() == 0
    add(many, range(100, 101))
    assert reading() == 1
    client.restore_run(ids[8])
    assert reading() == 1
    client.delete_run(ids[7])
    assert reading() == 0
    assert "tags.mine" not in load_runs(many, "many").columns
    assert files()[0] == large
    for run_id in ids[20:26]:
        client.set_tag(run_id, "dmkd.seed", "9")
    assert reading() == 6
    assert len(files()) == 1
    assert files()[0] != large


def test_a_few_runs_are_read_as_many_are(many, monkeypatch):
    client, ids = connect(many), load_runs(many, "many")["run_id"].to_list()
    client.log_batch(ids[6], metrics=[Metric("bad", float("nan"), 1, 0), Metric("high", float("-inf"), 1, 0)])
    client.log_param(ids[7], "text", '"quoted"\n')
    few = load_runs(many, "many", fresh=True)
    monkeypatch.setattr(databases, "FEW", 0)
    assert few.equals(load_runs(many, "many", fresh=True))
    assert few["metrics.high"].to_list()[6] == float("-inf")


def test_a_tag_of_a_row_far_from_the_end_is_seen(database, monkeypatch):
    """Tags are digested in blocks: one in the first, and one in a block that has grown since."""
    monkeypatch.setitem(marks.CHANGING, "tags", (64, ("value",)))
    add(database, range(30))
    ids = load_runs(database, "many")["run_id"].to_list()
    client = connect(database)
    client.set_tag(ids[0], "dmkd.seed", "9")
    assert read_again(database, monkeypatch)[1] == [1]
    client.set_tag(ids[-1], "dmkd.seed", "9")
    add(database, range(30, 31))
    assert read_again(database, monkeypatch)[1] == [2]
    client.set_tag(ids[0], "best", "1")
    add(database, range(31, 50))
    assert len(read_again(database, monkeypatch)[1]) == 1
    client.delete_tag(ids[0], "best")  # no other row of its block is of that run
    frame, counts = read_again(database, monkeypatch)
    assert counts == [50]
    assert "tags.best" not in frame.columns


def test_a_frame_that_is_held_is_not_taken_for_a_later_one(many, monkeypatch):
    """Two processes: what the second wrote has the files of what the first holds, but for the runs that are gone."""
    add(many, range(40, 100))
    client, ids = connect(many), load_runs(many, "many")["run_id"].to_list()
    here: dict[str, object] = {}
    there: dict[str, object] = {}

    def reading(held: dict[str, object]) -> pl.DataFrame:
        monkeypatch.setattr(run_cache, "_held", held)
        return load_runs(many, "many")

    for run_id in ids[7:9]:
        client.delete_run(run_id)
        left = [reading(held).height for held in (there, here)]
        assert left == [reading({}).height] * 2
    assert left == [98, 98]


def test_what_takes_the_place_of_a_deleted_row_is_seen(many, monkeypatch):
    """sqlite gives the number of a deleted last row to the next one: a tag that moves, a run that is deleted for good."""
    client = connect(many)
    ids = load_runs(many, "many")["run_id"].to_list()
    client.set_tag(ids[0], "best", "1")
    load_runs(many, "many")
    client.delete_tag(ids[0], "best")
    client.set_tag(ids[1], "best", "1")
    frame, _ = read_again(many, monkeypatch)
    assert frame["tags.best"].to_list()[:2] == [None, "1"]

    last = ids[-1]
    with closing(sqlite3.connect(str(sqlite_path(many)))) as connection, connection:
        for table in ("params", "tags", "metrics", "latest_metrics", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (last,))
    add(many, range(90, 91))
    frame, _ = read_again(many, monkeypatch)
    assert frame.height == 40
    assert last not in frame["run_id"]
    with closing(sqlite3.connect(str(sqlite_path(many)))) as connection:
        connection.execute("VACUUM")
    add(many, range(91, 92))
    assert read_again(many, monkeypatch)[0].height == 41


@pytest.mark.parametrize("few", [databases.FEW, 0])
def test_texts_of_every_kind_come_back_as_they_were_logged(database, monkeypatch, few):
    monkeypatch.setattr(databases, "FEW", few)
    client, texts = (
        connect(database),
        ["", '"quoted"', "back\\slash", "line\nbreak", "tab\t\x01", "ä 漢 🙂", "{}", "null", "1e400"],
    )
    run = client.create_run(ensure_experiment(database, "texts"))
    client.log_batch(run.info.run_id, tags=[RunTag(f"t{place}", text) for place, text in enumerate(texts)])
    frame = load_runs(database, "texts")
    assert [frame[f"tags.t{place}"][0] for place in range(len(texts))] == texts


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "other", "card"])
def test_a_damaged_cache_is_made_anew(many, harm, monkeypatch):
    whole = load_runs(many, "many")
    folder = run_cache.folder_of(many)
    (file,), (card,) = folder.glob("*.arrow"), folder.glob("*.json")
    content = file.read_bytes()
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        file.write_bytes(content[:900] + bytes([content[900] ^ 1]) + content[901:])
    elif harm == "gone":
        file.unlink()
    elif harm == "other":
        card.write_text(json.dumps(json.loads(card.read_text()) | {"files": [["../../elsewhere.arrow", ""]]}))
    else:
        card.write_text("{")
    run_cache._held.clear()
    again, counts = read_again(many, monkeypatch)
    assert again.equals(whole)
    assert counts == [40]
    assert read_again(many, monkeypatch)[1] == []


def test_readers_and_a_writer_at_once(many):
    """Every reader sees a state that was there: whole batches of runs, none missing, whoever writes the cache meanwhile."""
    with ThreadPoolExecutor(4) as pool:
        readings = [pool.submit(load_runs, many, "many") for _ in range(6)]
        for start in range(40, 100, 10):
            add(many, range(start, start + 10))
            readings += [pool.submit(load_runs, many, "many") for _ in range(3)]
        frames = [reading.result() for reading in readings]
    final = load_runs(many, "many")
    assert final.height == 100
    for frame in frames:
        assert frame.height % 10 == 0
        assert frame.equals(final[: frame.height])
    assert final.equals(load_runs(many, "many", fresh=True))


def test_where_the_folder_cannot_be_written_the_cache_lies_in_the_users_own(many, monkeypatch, state):
    monkeypatch.setattr(run_cache.os, "access", lambda *_: False)
    load_runs(many, "many")
    assert state in run_cache.folder_of(many).parents
    assert run_cache.read(run_cache.folder_of(many), connect(many).get_experiment_by_name("many").experiment_id)
    monkeypatch.setattr(run_cache, "folder_of", lambda _: Path("/proc/nowhere"))
    assert load_runs(many, "many").height == 40


def test_the_newest_experiment_is_found_without_reading_the_runs(many, monkeypatch):
    place = ensure_experiment(many, "newer")
    connect(many).create_run(place, start_time=2_000_000_000_000)
    monkeypatch.setattr(databases, "states", lambda *_: pytest.fail("read"))
    assert newest_experiment(many) == "newer"


def test_a_server_is_asked_for_what_may_have_changed(server, monkeypatch):
    client = connect(server)
    place = ensure_experiment(server, "cached")
    begin = 1_700_000_000_000
    ids = []
    for number in range(6):
        run = client.create_run(place, start_time=begin + 10_000_000 * number, run_name=f"run {number}")
        client.log_batch(run.info.run_id, metrics=[Metric("val/a", number / 8, 1, 0)])
        ids.append(run.info.run_id)
        if number != 2:
            client.set_terminated(run.info.run_id, "FINISHED", begin + 10_000_000 * number + 5_000)
    read: list[str] = []
    page = rest.pages

    def pages(uri, kind, body):
        for item in page(uri, kind, body):
            read.append(item.get("info", {}).get("run_name", ""))
            yield item

    monkeypatch.setattr(rest, "pages", pages)

    def reading() -> list[str]:
        read.clear()
        frame = load_runs(server, "cached")
        names = sorted({name for name in read if name})
        assert frame.equals(load_runs(server, "cached", fresh=True))
        return names

    assert reading() == [f"run {number}" for number in range(6)]
    assert reading() == ["run 2", "run 5"]  # the one that is not over, and the newest
    client.set_terminated(ids[2], "FINISHED", begin + 30_000_000)
    client.log_batch(ids[2], metrics=[Metric("val/late", 0.5, 1, 1)])
    assert "run 2" in reading()
    client.delete_run(ids[1])
    assert "val/late" in "".join(load_runs(server, "cached").columns)
    reading()
    client.restore_run(ids[1])
    assert "run 1" in reading()
    load_runs(server, "cached")
    count_look(f"runs:/{ids[0]}", server)
    assert load_runs(server, "cached").filter(pl.col("run_id") == ids[0])["metrics.test_looks"].to_list() == [1.0]


def test_what_was_spooled_for_a_server_makes_the_next_reading_a_full_one(line, server, state):
    with log_run(line.uri, "late", "one", params={"a": 1}, tags={}, patience=0.1) as run:
        run.log({"val/a": 1.0}, step=1)
    folder = run_cache.folder_of(line.uri)
    run_cache.write(folder, "7", frames.from_rows([]), {"gone": [], "read": time.time()})
    assert run_cache.read(folder, "7")
    line.up()
    assert sync().delivered == 1
    assert run_cache.read(folder, "7") is None
    assert load_runs(server, "late")["metrics.val/a"].to_list() == [1.0]

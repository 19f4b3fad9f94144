"""Our readers against MLflow's own `search_runs`, on what MLflow's own client wrote."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime

import mlflow
import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from tracking import rest
from tracking.client import connect, ensure_experiment
from tracking.errors import TrackingError
from tracking.frames import dated, ordered
from tracking.reading import load_outcomes, load_runs
from tracking.rest import authorization
from tracking.server import Client, Server


def fill(uri: str) -> None:
    client = connect(uri)
    for experiment in ("reading/one", "reading/two"):
        place = ensure_experiment(uri, experiment)
        for number in range(3):
            run_id = client.create_run(place, start_time=1000 + number, run_name=f"run {number}").info.run_id
            metrics = [Metric("val/a", 0.1 * number, 5, 1), Metric("val/a", 0.2 * number, 6, 2), Metric("only one", 1.0, 5, 0)]
            metrics += [Metric("bad/nan", math.nan, 5, 1), Metric("bad/high", math.inf, 5, 1), Metric("bad/low", -math.inf, 5, 1)]
            client.log_batch(
                run_id, metrics[: 6 if number else 2], [Param("x.y", f"ä{number}")], [RunTag("dmkd.seed", str(number))]
            )
            if number < 2:
                client.set_terminated(run_id, "FINISHED", 2000)
    gone = client.create_run(ensure_experiment(uri, "reading/one"), run_name="deleted").info.run_id
    client.delete_run(gone)


def expected(uri: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    frame = mlflow.search_runs(experiment_names=["reading/one", "reading/two"])
    return {row["run_id"]: row for row in frame.to_dict("records")}


def check(frame: pl.DataFrame, peer: dict[str, dict[str, object]]) -> None:
    assert set(frame["run_id"]) == set(peer)
    assert frame.height == 6
    for row in frame.to_dicts():
        other = peer[row["run_id"]]
        assert row["status"] == other["status"]
        assert row["artifact_uri"] == other["artifact_uri"]
        assert row["start_time"] == other["start_time"].to_pydatetime()
        assert row["params.x.y"] == other["params.x.y"]
        assert row["tags.dmkd.seed"] == other["tags.dmkd.seed"]
        assert row["metrics.val/a"] == other["metrics.val/a"]
        first = row["tags.dmkd.seed"] == "0"
        assert row["metrics.only one"] == (None if first else 1.0)
        if first:
            assert row["metrics.bad/nan"] is None
            assert row["metrics.bad/high"] is None
        else:
            assert math.isnan(row["metrics.bad/nan"])
            assert (row["metrics.bad/high"], row["metrics.bad/low"]) == (math.inf, -math.inf)


@pytest.fixture(scope="module")
def filled(server):
    fill(server)
    return server


def test_sqlite_directly_and_through_the_client(database, monkeypatch):
    fill(database)
    peer = expected(database, monkeypatch)
    frame = load_runs(database)
    check(frame, peer)
    other = Server(database)
    assert isinstance(other.source, Client)
    parts = [other.runs(name, place) for name, place in other.experiments().items()]
    assert frame.equals(dated(ordered(pl.concat(parts, how="diagonal"))))
    one = load_runs(database, "reading/one")
    assert one["experiment"].to_list() == ["reading/one"] * 3
    assert one["name"].to_list() == ["run 0", "run 1", "run 2"]
    assert one["end_time"].to_list() == [datetime.fromtimestamp(2, UTC)] * 2 + [None]


def test_server_page_by_page(filled, monkeypatch):
    peer = expected(filled, monkeypatch)
    monkeypatch.setattr(rest, "PAGE", 2)
    frame = load_runs(filled).filter(pl.col("experiment").str.starts_with("reading/"))
    check(frame, peer)
    assert load_runs(filled, "reading/two")["experiment"].unique().to_list() == ["reading/two"]


def test_a_server_with_a_login_of_its_own_is_read_by_mlflows_client(filled, monkeypatch):
    plain = load_runs(filled, "reading/one")
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "false")
    monkeypatch.setattr(rest, "_post", lambda *_: pytest.fail("asked by our own request"))
    assert load_runs(filled, "reading/one").equals(plain)


def test_a_password_is_sent(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "b:c")
    assert authorization() == {"Authorization": "Basic YW5uOmI6Yw=="}


def test_missing_things_are_one_clear_line(database, server, tmp_path, line):
    with pytest.raises(TrackingError, match="no runs yet"):
        load_runs(f"sqlite:///{tmp_path}/none.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(TrackingError, match="not readable as MLflow's database"):
        load_runs(f"sqlite:///{tmp_path}/text.db")
    for uri in (database, server):
        with pytest.raises(TrackingError, match="no experiment 'nowhere'"):
            load_runs(uri, "nowhere")
    with pytest.raises(TrackingError, match="does not answer"):
        load_runs(line.uri)
    with pytest.raises(TrackingError, match="HTTP 404"):
        load_runs(f"{server}/elsewhere")
    with pytest.raises(TrackingError, match="in memory"):
        load_runs("sqlite:///:memory:")
    assert not (tmp_path / "none.db").exists()


def test_reading_a_database_that_is_being_written_changes_nothing(database):
    fill(database)
    before = load_runs(database)
    assert load_runs(database).equals(before)
    assert MlflowClient(database).search_experiments()


def test_an_empty_database_is_an_empty_frame(database):
    frame = load_runs(database)
    assert frame.height == 0
    assert frame.columns[:3] == ["run_id", "experiment", "experiment_id"]


def test_a_board_is_made_without_mlflow_numpy_torch_or_ray(database):
    fill(database)
    code = f"""if True:
        import sys
        from tracking.leaderboard import leaderboard
        from tracking.render import render
        from tracking.runs import load_runs
        print(render(leaderboard(load_runs({database!r}))))
        print({{"mlflow", "numpy", "torch", "ray", "pandas", "dmkd"}} & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("where", ["database", "server"])
def test_outcomes_come_back_by_run(where, request, tmp_path):
    uri = request.getfixturevalue(where)
    client = connect(uri)
    place = ensure_experiment(uri, "outcomes")
    stages = ({"dmkd.stage": "final"}, {"dmkd.stage": "final"}, {"dmkd.stage": "search"})
    stored, bare, searched = (client.create_run(place, tags=tags).info.run_id for tags in stages)
    table = pl.DataFrame({"query": [0, 1], "label": [3, 4], "first_hit": [1, 2], "ap": [1.0, 0.5], "ap_at_r": [1.0, 0.0]})
    table.write_parquet(tmp_path / "queries.parquet")
    for run_id in (stored, searched):
        client.log_artifact(run_id, str(tmp_path / "queries.parquet"), "evaluation")
    found = load_outcomes(uri, load_runs(uri, "outcomes"))
    assert set(found) == {stored}
    assert found[stored].equals(table)
    assert bare not in found

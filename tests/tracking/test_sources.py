"""Wherever MLflow keeps its runs, they are read the same: PostgreSQL, MariaDB, dmkd's route, with users, MLflow's client."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from benchmarks.served import free_port
from tests.mariadb import Mariadb
from tests.postgres import Postgres
from tests.tracking.conftest import served
from tests.tracking.test_reading import check, expected, fill
from tracking import rest, sql
from tracking.client import connect, ensure_experiment
from tracking.conditions import Condition
from tracking.errors import TrackingError
from tracking.frames import INFOS, are_runs, ordered
from tracking.looks import count_look
from tracking.reading import load_runs
from tracking.rest import Rest
from tracking.server import Client, Server
from tracking.sql import Sql

ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(12)}
READER = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(12)}


@pytest.fixture(scope="module", params=[Postgres, Mariadb])
def database_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    started = request.param(free_port(), "a b%@/:x")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path_factory.mktemp("artifacts")))
            fill(started.uri)
        yield started.uri
    finally:
        started.close()


@pytest.fixture(scope="module")
def quick(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with dmkd's route."""
    with served(migrated, tmp_path_factory.mktemp("quick"), "--app-name", "dmkd") as uri:
        fill(uri)
        yield uri


@pytest.fixture(scope="module")
def protected(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with users: an administrator, and ann, who may read `reading/one`."""
    pytest.importorskip("flask_wtf")
    folder = tmp_path_factory.mktemp("protected")
    ini = f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = admin\n"
    (folder / "auth.ini").write_text(ini + "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n")
    told = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16)}
    told |= {"MLFLOW_AUTH_ADMIN_USERNAME": "admin", "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN["MLFLOW_TRACKING_PASSWORD"]}
    with served(migrated, folder, "--app-name", "dmkd-basic-auth", **told) as uri, pytest.MonkeyPatch.context() as patch:
        for name, value in ADMIN.items():
            patch.setenv(name, value)
        fill(uri)
        rest._post(f"{uri}/api/2.0/mlflow/users/create", {"username": "ann", "password": READER["MLFLOW_TRACKING_PASSWORD"]})
        place = Rest(uri).experiments()["reading/one"]
        allowed = {"username": "ann", "resource_type": "experiment", "resource_id": place, "permission": "READ"}
        rest._post(f"{uri}/api/3.0/mlflow/users/permissions/grant", allowed)
        yield uri


def log_in(monkeypatch: pytest.MonkeyPatch, user: dict[str, str]) -> None:
    for name, value in user.items():
        monkeypatch.setenv(name, value)


def never_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "_by_page", lambda *_: pytest.fail("asked page by page"))


def test_a_database_server_is_read_as_mlflow_reads_it(database_server, monkeypatch):
    assert isinstance(Server(database_server).source, Sql)
    monkeypatch.setattr("tracking.server._all", lambda *_, **__: pytest.fail("read by MLflow's client"))
    check(load_runs(database_server), expected(database_server, monkeypatch))
    assert load_runs(database_server, "reading/two")["experiment"].unique().to_list() == ["reading/two"]


def test_dmkds_route_answers_as_mlflows_search(quick, monkeypatch):
    peer = expected(quick, monkeypatch)
    never_by_page(monkeypatch)
    check(load_runs(quick), peer)


CONDITIONS = [
    None,
    Condition("start_time", 1001),
    Condition("end_time", 1),
    Condition("status", "RUNNING"),
    Condition("run_id", ("x' OR '1'='1",)),
]


@pytest.mark.parametrize("asked", CONDITIONS, ids=str)
@pytest.mark.parametrize("deleted", [False, True])
def test_sources_agree_on_what_is_asked_for(database_server, quick, monkeypatch, asked, deleted):
    for uri, source in ((database_server, Sql.at(database_server)), (quick, Rest(quick))):
        place = source.experiments()["reading/one"]
        assert source.experiments() == Client(uri).experiments()
        if asked and asked.field == "run_id":
            some = Client(uri).runs(place)["run_id"].to_list()[1:]
            asked = Condition("run_id", (*asked.value, *some))
            client = Client(uri).runs(place, Condition("run_id", tuple(some)), deleted)
        else:
            client = Client(uri).runs(place, asked, deleted)
        found = source.runs(place, asked, deleted)
        assert are_runs(found)
        assert ordered(found).equals(ordered(client))
    by_page = Rest(quick)
    monkeypatch.setattr(by_page, "_at_once", False)
    assert ordered(by_page.runs(place, None, deleted)).equals(ordered(Client(quick).runs(place, None, deleted)))


def test_what_changes_in_a_database_server_is_seen(database_server):
    changes_are_seen(database_server, ensure_experiment(database_server, "changing", "file:///tmp/nowhere"))


def test_what_changes_behind_dmkds_route_is_seen(quick):
    changes_are_seen(quick, ensure_experiment(quick, "changing"))


def changes_are_seen(uri: str, place: str) -> None:
    client = connect(uri)
    begin = 1_700_000_000_000

    def agree() -> pl.DataFrame:
        frame = load_runs(uri, "changing")
        assert frame.equals(load_runs(uri, "changing", fresh=True))
        return frame

    ids = []
    for number in range(4):
        ids.append(client.create_run(place, start_time=begin + 10_000_000 * number, run_name=f"run {number}").info.run_id)
        client.log_batch(ids[-1], metrics=[Metric("val/a", number / 8, 1, 0)])
        if number != 2:
            client.set_terminated(ids[-1], "FINISHED", begin + 10_000_000 * number + 5_000)
        agree()
    client.log_batch(ids[2], metrics=[Metric("val/late", 0.5, 1, 1)])
    client.set_terminated(ids[2], "FINISHED", begin + 30_000_000)
    assert "metrics.val/late" in agree().columns
    client.delete_run(ids[1])
    assert agree().height == 3
    client.restore_run(ids[1])
    assert agree().height == 4
    count_look(f"runs:/{ids[0]}", uri)
    assert load_runs(uri, "changing").filter(pl.col("run_id") == ids[0])["metrics.test_looks"].to_list() == [1.0]


def test_who_may_not_read_an_experiment_is_not_told_of_its_runs(protected, monkeypatch):
    log_in(monkeypatch, ADMIN)
    places = Rest(protected).experiments()
    check(load_runs(protected), expected(protected, monkeypatch))
    log_in(monkeypatch, READER)
    assert Rest(protected).experiments().keys() == {"reading/one"}
    assert rest._at_once(protected, places["reading/two"], None, False) is None
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(protected, experiment_id=places["reading/two"])
    never_by_page(monkeypatch)
    assert load_runs(protected, "reading/one", fresh=True).height == 3
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guessed")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(protected, experiment_id=places["reading/one"])
    with pytest.raises(TrackingError, match="HTTP 401"):
        load_runs(protected, "reading/one", fresh=True)


def ask(uri: str, **told: str) -> Any:
    request = urllib.request.Request(f"{uri}{rest.ROUTE}?{urllib.parse.urlencode(told)}", headers=rest.authorization())
    return urllib.request.urlopen(request, timeout=60)


BAD = [
    {},
    {"experiment_id": "1 OR 1=1"},
    {"experiment_id": "1", "asked": "nothing"},
    {"experiment_id": "1", "asked": json.dumps(["name", "x"])},
    {"experiment_id": "1", "asked": json.dumps(["status", {"a": 1}])},
    {"experiment_id": "1", "asked": json.dumps(["status", ["a", 1]])},
]


@pytest.mark.parametrize("told", BAD, ids=str)
def test_the_route_refuses_what_it_was_not_made_for(quick, told):
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(quick, **told)


def test_a_server_without_the_route_or_with_another_answer_is_asked_page_by_page(server, quick, monkeypatch):
    place = ensure_experiment(server, "plain")
    connect(server).create_run(place)
    assert rest._at_once(server, place, None, False) is None
    assert load_runs(server, "plain").height == 1
    other = pl.DataFrame({"run_id": ["a"], "params.x": [1]})
    monkeypatch.setattr(pl, "read_ipc", lambda _: other)
    assert load_runs(quick, "reading/one", fresh=True).height == 3


def test_only_frames_of_runs_are_taken():
    infos = {name: pl.Series([None], dtype=pl.Int64 if name.endswith("_time") else pl.String) for name in INFOS}
    good = pl.DataFrame(infos | {"params.a": ["x"], "tags.b": ["y"], "metrics.c": [0.5]})
    assert are_runs(good)
    assert are_runs(pl.DataFrame(infos))
    assert not are_runs(good.drop("status"))
    assert not are_runs(good.with_columns(pl.lit(1).alias("metrics.d")))
    assert not are_runs(good.with_columns(pl.lit("x").alias("else.d")))
    assert not are_runs(good.with_columns(pl.lit(None, pl.Object).alias("params.d")))


def test_a_database_that_is_not_there_is_one_clear_line(database_server):
    port = free_port()
    with pytest.raises(TrackingError, match=f"127.0.0.1:{port}/mlflow") as refused:
        load_runs(f"postgresql+psycopg2://me:secret-word@127.0.0.1:{port}/mlflow")
    assert "secret-word" not in str(refused.value)
    with pytest.raises(TrackingError, match="driver"):
        load_runs("postgresql+nodriver://h/db")
    with pytest.raises(TrackingError, match="experiments"):
        load_runs(database_server.removesuffix("mlflow") + {"p": "postgres", "m": "information_schema"}[database_server[0]])


def test_which_addresses_are_databases():
    assert [sql.is_sql(uri) for uri in ("postgresql://h/d", "mysql+pymysql://h/d", "mssql+pyodbc://h/d")] == [True] * 3
    assert not any(sql.is_sql(uri) for uri in ("sqlite:///a.db", "http://h", "databricks", "file:///x"))


def test_mlflow_says_the_conditions_mean_what_sql_says(quick):
    assert MlflowClient(quick).search_runs(["0"], str(Condition("run_id", ("a", "b")))) == []

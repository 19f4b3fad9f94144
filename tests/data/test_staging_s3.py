"""Data in an S3-compatible store (moto's server, over HTTP on loopback), read by the s3fs that `dmkd[cluster]` brings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmkd.data import Data
from dmkd.data.datasets import load_dataset
from dmkd.data.staging import staged
from dmkd.errors import DataError
from tests.data.test_staging import tree
from tests.pictures import make_folder

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an empty bucket `pictures`. Address and keys come from the environment, as on a node."""
    import boto3

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    kept = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (kept | {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "DMKD_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    s3fs.S3FileSystem.clear_instance_cache()  # it keeps the address of an earlier test's server
    client = boto3.client("s3")
    client.create_bucket(Bucket="pictures")
    yield client
    server.stop()


def test_a_bucket_is_copied_once_and_again_when_it_changes(store: Any, tmp_path: Path) -> None:
    store.put_object(Bucket="pictures", Key="set/a/1.png", Body=b"first")
    store.put_object(Bucket="pictures", Key="set/b/2.png", Body=b"second")
    store.put_object(Bucket="pictures", Key="settled/c/3.png", Body=b"of another prefix")
    place = staged("s3://pictures/set")
    assert tree(place) == {"a/1.png": b"first", "b/2.png": b"second"}
    assert staged("s3://pictures/set") == place
    store.put_object(Bucket="pictures", Key="set/a/1.png", Body=b"FIRST")  # as long as before
    again = staged("s3://pictures/set")
    assert again != place
    assert tree(again) == {"a/1.png": b"FIRST", "b/2.png": b"second"}
    assert tree(place)["a/1.png"] == b"first"


def test_what_is_not_there_or_leaves_its_folder_is_refused(store: Any) -> None:
    with pytest.raises(DataError, match=r"nothing lies there|cannot be listed"):
        staged("s3://pictures/none")
    with pytest.raises(DataError, match=r"nothing lies there|cannot be listed"):
        staged("s3://nobodys/set")
    store.put_object(Bucket="pictures", Key="bad/../../evil.png", Body=b"x")
    with pytest.raises(DataError, match=r"does not stay in its folder"):
        staged("s3://pictures/bad")


def test_a_data_set_is_the_same_in_a_bucket_and_in_a_folder(store: Any, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "signs", classes=4, size=16, per_class=2)
    for path in folder.rglob("*.*"):
        store.upload_file(str(path), "pictures", f"signs/{path.relative_to(folder).as_posix()}")
    there, here = (load_dataset(Data(name="folder", root=root)) for root in ("s3://pictures/signs", str(folder)))
    assert there.fingerprint == here.fingerprint != ""

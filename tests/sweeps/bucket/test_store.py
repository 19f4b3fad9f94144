"""Objects that change by compare-and-swap alone, and stores that cannot do it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from dmkd.errors import SweepError
from sweeps.bucket import store as stores
from sweeps.bucket.head import Head, change_head, read_head
from sweeps.bucket.storage import Bucket
from sweeps.bucket.store import Conflict, Store
from sweeps.checks import nodes
from sweeps.checks.node import Asked, report
from sweeps.checks.nodes import check_places
from sweeps.fence import Away
from sweeps.options import Options
from sweeps.places import Places, find_places

STORE = Store("sweeps", "mine/objects/")


def test_a_swap_changes_only_what_is_as_it_was(s3: Any) -> None:
    first = STORE.swap("x", b"1", None)
    with pytest.raises(Conflict):
        STORE.swap("x", b"2", None)
    second = STORE.swap("x", b"2", first)
    with pytest.raises(Conflict):
        STORE.swap("x", b"3", first)
    with pytest.raises(Conflict):
        STORE.swap("none", b"3", first)
    assert STORE.read("x") == (b"2", second)
    assert s3.get_object(Bucket="sweeps", Key="mine/objects/x")["Body"].read() == b"2"
    assert STORE.read("none") is None
    assert {name: size for name, (_, size) in STORE.sizes("").items()} == {"x": 1}


def test_of_heads_that_are_raised_at_once_each_has_a_token_of_its_own(s3: Any) -> None:
    tokens: list[int] = []

    def raise_often() -> None:
        for _ in range(10):
            while True:
                old, etag = read_head(STORE, "head") or (None, None)
                try:
                    tokens.append(change_head(STORE, "head", old, etag, Head(token=(old or Head()).token + 1))[0].token)
                    break
                except Conflict:
                    continue

    threads = [threading.Thread(target=raise_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tokens) == list(range(1, 41))


def test_a_put_whose_answer_is_lost_is_no_conflict(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for once more, and then refused because it was done."""
    old, etag = change_head(STORE, "head", None, None, Head(token=1))
    put, answers = s3.put_object, [False, True]

    def answerless(**asked: Any) -> Any:
        answer = put(**asked)
        if not answers.pop(0):
            raise ReadTimeoutError(endpoint_url="http://s3")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(s3, "put_object", answerless)
        put_head = change_head(STORE, "head", old, etag, Head(token=2))
    assert read_head(STORE, "head") == put_head
    assert put_head[0].token == 2


def test_what_is_no_head_is_refused(s3: Any) -> None:
    for content in (b'{"token": 1', b'{"token": 1, "more": 2}', b'{"files": {"../x": {"text": ""}}}', b'{"files": {"/x": {}}}'):
        STORE.write("head", content)
        with pytest.raises(SweepError, match="truncated, altered, or not written by this version"):
            read_head(STORE, "head")


class Heedless(BaseHTTPRequestHandler):
    """A store as they were before there were conditional writes."""

    objects: dict[str, bytes] = {}

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects[self.path] = body
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(404)
        body = b"<Error><Code>NoSuchKey</Code></Error>"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *told: object) -> None:
        pass


@pytest.fixture
def heedless(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Heedless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        stores._client.cache_clear()
        yield
        server.shutdown()


def test_a_store_that_heeds_no_condition_is_refused_before_anything_starts(heedless: None) -> None:
    with pytest.raises(
        SweepError, match=r"s3://sweeps/old/x: this store overwrites an object although the put says If-None-Match"
    ):
        find_places(Options(storage="s3://sweeps/old"), "x")
    assert Heedless.objects == {}


def test_a_bucket_that_is_not_there_and_a_store_that_is_away_are_one_line(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SweepError, match=r"s3://nobodys/p/x: .*NoSuchBucket"):
        find_places(Options(storage="s3://nobodys/p"), "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    stores._client.cache_clear()
    with pytest.raises(Away, match=r"s3://sweeps/mine/objects does not answer"):
        STORE.read("x", patience=0)


def test_each_node_is_asked_whether_it_can_use_the_store(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report(Asked(storage="s3://sweeps/mine/one"))["storage"] == ""
    assert Store.of("s3://sweeps/mine/one").sizes("probe") == {}, "it leaves nothing"
    assert "NoSuchBucket" in report(Asked(storage="s3://nobodys"))["storage"]
    monkeypatch.setattr(nodes, "file_system", lambda folder: "ext4")
    check_places(Places(Path("/"), "http://tracker:5000", Bucket.of("s3://sweeps", "x")), 2)
    with pytest.raises(SweepError, match="lies on a disk of this machine"):
        check_places(Places(Path("/"), "http://tracker:5000"), 2)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    stores._client.cache_clear()
    assert "credentials" in report(Asked(storage="s3://sweeps/mine/one"))["storage"]


def test_addresses(s3: Any, tmp_path: Path) -> None:
    places = find_places(Options(storage="s3://sweeps/a/b/"), "x")
    assert isinstance(places.storage, Bucket)
    assert places.storage.store.url == "s3://sweeps/a/b/x"
    assert places.folder.is_relative_to(tmp_path / "scratch")
    assert find_places(Options(storage="s3://sweeps/a/b"), "x").folder == places.folder
    assert find_places(Options(storage="s3://sweeps"), "x").folder != places.folder
    assert find_places(Options(storage="s3://sweeps"), "x").storage.shown(Path("/f")) == "s3://sweeps/x (on each node in /f)"

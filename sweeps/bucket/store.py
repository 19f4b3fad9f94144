"""Objects below one prefix of a bucket. Credentials, region and endpoint come from the environment, as boto3 reads it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from dmkd.errors import SweepError
from sweeps.fence import Away

PATIENCE = 600.0
"""Seconds for which a store that does not answer is asked again, as a mounted folder would wait."""
PROMPT = 15.0
"""The same where nobody should wait so long."""
_CHANGED = (409, 412)
"""Statuses of a conditional put that was refused: somebody was faster."""
_T = TypeVar("_T")


class Conflict(Exception):
    """An object is not as it was when it was read."""


@cache
def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise SweepError("--storage s3://...: boto3 is not installed: pip install 'dmkd[cluster]', on every node") from None
    return boto3.Session().client(
        "s3", config=Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "max_attempts": 3})
    )


@dataclass(frozen=True)
class Store:
    """The objects of `s3://bucket/prefix`; names are relative to it."""

    bucket: str
    prefix: str
    """Empty, or ends with a slash."""

    @classmethod
    def of(cls, url: str) -> Store:
        """What lies below an address. Raises `SweepError` for one that is none of S3."""
        found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/.*)?", url)
        if found is None:
            raise SweepError(f"--storage {url}: wanted a folder that every node mounts, or s3://bucket/prefix")
        parts = [part for part in (found[2] or "").split("/") if part]
        return cls(found[1], "".join(f"{part}/" for part in parts))

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def read(self, name: str, patience: float | None = None) -> tuple[bytes, str] | None:
        """Content and ETag of an object; None where there is none. `patience`: seconds, `PATIENCE` where it is None."""

        def work() -> tuple[bytes, str] | None:
            try:
                found = _client().get_object(Bucket=self.bucket, Key=self.prefix + name)
            except _errors().ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise
            return found["Body"].read(), str(found["ETag"])

        return self._patiently(work, patience)

    def swap(self, name: str, content: bytes, etag: str | None) -> str:
        """Replace the object with this ETag (None: there is none yet); its new one. Raises `Conflict` where it has another."""
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        put = {"Bucket": self.bucket, "Key": self.prefix + name, "Body": content} | condition
        return self._patiently(lambda: str(_client().put_object(**put)["ETag"]))

    def write(self, name: str, content: bytes | Path, patience: float | None = None) -> None:
        """Put an object that nobody else writes: bytes, or those of a file."""

        def work() -> None:
            if isinstance(content, bytes):
                _client().put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content)
                return
            with content.open("rb") as file:
                _client().put_object(Bucket=self.bucket, Key=self.prefix + name, Body=file)

        self._patiently(work, patience)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; what is not there is no error."""
        for name in names:
            self._patiently(lambda name=name: _client().delete_object(Bucket=self.bucket, Key=self.prefix + name))  # type: ignore[misc]

    def sizes(self, below: str, patience: float | None = None) -> dict[str, tuple[str, int]]:
        """{name: (ETag, bytes)} of the objects whose names begin with `below`."""

        def work() -> dict[str, tuple[str, int]]:
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + below)
            found = [item for page in pages for item in page.get("Contents", [])]
            return {item["Key"].removeprefix(self.prefix): (str(item["ETag"]), int(item["Size"])) for item in found}

        return self._patiently(work, patience)

    def _patiently(self, work: Callable[[], _T], patience: float | None = None) -> _T:
        """Do it, again and again while the store does not answer. Raises `Conflict`, or `Away`."""
        end, pause = time.monotonic() + (PATIENCE if patience is None else patience), 1.0
        while True:
            try:
                return work()
            except _errors().ClientError as error:
                self._judge(error)
                reason = str(error)
            except (_errors().HTTPClientError, _errors().ConnectionError) as error:
                reason = str(error)
            except _errors().BotoCoreError as error:  # no credentials, no region, a boto3 without conditions
                raise Away(f"{self.url}: {' '.join(str(error).split())}") from None
            if time.monotonic() + pause > end:
                raise Away(f"{self.url} does not answer: {' '.join(reason.split())[:200]}") from None
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _judge(self, error: Any) -> None:
        """Raise what no further try would change."""
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response["Error"].get("Code", ""))
        if status in _CHANGED or (status == 404 and code == "NoSuchKey"):
            raise Conflict(code) from None
        if code not in ("SlowDown", "RequestTimeout", "TooManyRequests") and status not in (429, 500, 502, 503, 504):
            raise Away(f"{self.url}: {' '.join(str(error).split())[:300]}") from None

    def probe(self) -> None:
        """Raise `SweepError` where this is no place for a sweep: not reachable, not writable, or its puts heed no conditions."""
        name = f"probe-{uuid.uuid4().hex}"
        try:
            first = self.swap(name, b"1", None)
            for wrong in (None, '"00000000000000000000000000000000"'):
                with suppress(Conflict):
                    self.swap(name, b"2", wrong)
                    raise SweepError(
                        f"{self.url}: this store overwrites an object although the put says If-{'None-' * (wrong is None)}Match; "
                        "two workers could then write one trial: use a store with conditional writes (AWS S3 has them, MinIO and "
                        "Ceph in their newer releases), or a folder"
                    )
            self.swap(name, b"3", first)
        except Conflict:
            raise SweepError(
                f"{self.url}: this store refuses a conditional put that should succeed: use another, or a folder"
            ) from None
        finally:
            with suppress(SweepError):
                self.delete([name])


def _errors() -> Any:
    import botocore.exceptions

    return botocore.exceptions

"""A head: one small JSON object that says who may change a folder and what it holds. It changes by compare-and-swap alone.

The files themselves are immutable objects, named by their content below the token of whoever wrote them, and written before a
head names them. A late writer can thus neither change a head nor a file that counts.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from dmkd.errors import SweepError
from sweeps.bucket.store import Conflict, Store

File = Mapping[str, Any]
"""`{"text"}` of a small file, or `{"at", "sha256", "size"}` of another: `at` is the object's name."""
TRIES = 5


@dataclass(frozen=True)
class Head:
    """What an object says."""

    token: int = 0
    """Grows with every holder."""
    lease: int = 0
    """Of a trial: the token of the driver whose worker holds it."""
    who: Mapping[str, Any] = field(default_factory=dict)
    """The holder's process (`tracking.heartbeat.identity`)."""
    files: Mapping[str, File] = field(default_factory=dict)
    """{path in the folder: file}."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of a driver: its working folder, a number that grows while it lives, the seconds between, whether it has ended."""
    nonce: str = ""
    """Another one for each put: a put whose answer was lost is known again, and no two contents are equal."""

    def objects(self) -> set[str]:
        """Names of the objects that hold its files."""
        return {str(file["at"]) for file in self.files.values() if "at" in file}

    def text(self, name: str) -> str | None:
        """The content of a small file."""
        found: str | None = self.files.get(name, {}).get("text")
        return found


def read_head(store: Store, name: str, patience: float | None = None) -> tuple[Head, str] | None:
    """A head with its ETag; None where there is none. Raises `SweepError` for what is no head."""
    found = store.read(name, patience)
    if found is None:
        return None
    try:
        head = Head(**json.loads(found[0]))
        if any(path.startswith("/") or ".." in PurePosixPath(path).parts for path in head.files):
            raise ValueError("a path leaves the folder")
    except (ValueError, TypeError):
        raise SweepError(f"{store.url}/{name}: truncated, altered, or not written by this version of dmkd") from None
    return head, found[1]


def change_head(store: Store, name: str, old: Head | None, etag: str | None, new: Head) -> tuple[Head, str]:
    """Put `new` in the place of `old`; as it was put, with its ETag. Raises `Conflict`, having changed nothing, elsewhere."""
    new = replace(new, nonce=uuid.uuid4().hex)
    content = json.dumps(asdict(new)).encode()
    for _ in range(TRIES):
        try:
            return new, store.swap(name, content, etag)
        except Conflict:
            found = read_head(store, name)
            if found is not None and found[0].nonce == new.nonce:  # it was put, the answer was lost
                return new, found[1]
            if (found[0].nonce if found else None) != (old.nonce if old else None):
                raise
            etag = found[1] if found else None  # refused though nothing has changed: S3 does so when puts meet
    raise Conflict(name)

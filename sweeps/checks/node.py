"""What one node can say of itself. `report` runs on every node, as a task of Ray; plain values go in and out."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from dmkd.data import Data
from sweeps.checks.gpu import ROOT, Gpus, find_gpus

PACKAGES = ("dmkd", "torch", "torchvision", "timm", "numpy", "faiss-gpu", "ray", "optuna", "mlflow", "polars")
"""Their versions decide numbers, or what processes understand of each other."""

MOUNT = "mount one folder on every node (NFS), and name it with --storage"


@dataclass(frozen=True)
class Asked:
    """What a node is asked to look at; what is empty is left alone."""

    data: Mapping[str, Data] = field(default_factory=dict)
    """What a trial would read, by the name of the data set."""
    tracking_uri: str = ""
    storage: str = ""
    """A folder that every node has to see, or an address in S3."""
    token: str = ""
    """Name of the file that the driver wrote into the storage."""
    gpus: bool = False


class Report(TypedDict):
    """What a node found; a reason is empty where all is well."""

    host: str
    boot: str
    """Equal on the nodes of one machine."""
    python: str
    versions: dict[str, str]
    code: str
    """12 digits over the source of dmkd, sweeps and tracking."""
    data: dict[str, tuple[str, str]]
    """{data set: (fingerprint, reason)}."""
    tracker: str
    storage: str
    gpus: Gpus | None


def report(asked: Asked) -> Report:
    """Look at everything that is asked for. Raises nothing that a broken node could cause."""
    return Report(
        host=socket.gethostname(),
        boot=_boot(),
        python=".".join(map(str, sys.version_info[:3])),
        versions={name: _version(name) for name in PACKAGES},
        code=code_hash(),
        data={name: _data(data) for name, data in asked.data.items()},
        tracker=_tracker(asked.tracking_uri) if asked.tracking_uri else "",
        storage=_storage(asked.storage, asked.token) if asked.storage else "",
        gpus=find_gpus() if asked.gpus else None,
    )


def now() -> float:
    """This node's clock, seconds."""
    return time.time()


def code_hash() -> str:
    """Of every Python file of the three packages, as this process would import them."""
    digest = hashlib.sha256()
    for path in sorted(path for package in ("dmkd", "sweeps", "tracking") for path in (ROOT / package).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _data(data: Data) -> tuple[str, str]:
    from dmkd.data.datasets import load_dataset

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_dataset(data).fingerprint, ""
    except Exception as error:  # whatever is wrong with a node's copy is to be said
        return "", _line(error)


def _tracker(uri: str) -> str:
    """Why the tracker, or the store of its artifacts, cannot be used from here."""
    from tracking.health import check_tracker

    try:
        check_tracker(uri)
    except Exception as error:  # whatever is wrong with a node's network is to be said
        return _line(error)
    return ""


def _storage(place: str, token: str) -> str:
    """Why the driver's storage is not this node's: another folder, or one that cannot be written."""
    if "://" in place:
        return _bucket(place)
    folder = Path(place)
    try:
        if not (folder / token).is_file():
            return f"it is another folder there, or none: what the driver writes is not seen; {MOUNT}"
        answer = folder / f"{token}.{socket.gethostname()}.{os.getpid()}"
        answer.write_text(token, encoding="ascii")
        answer.unlink()
    except OSError as error:
        return f"it cannot be written: {error.strerror or error}; {MOUNT}"
    return ""


def _bucket(url: str) -> str:
    from sweeps.bucket.store import Store

    try:
        Store.of(url).probe()
    except Exception as error:  # whatever is wrong with a node's keys or network is to be said
        return _line(error)
    return ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__

"""Where a command's REF and its tracker are."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

DEFAULT_TRACKING = "sqlite:///mlflow.db"


def tracked(parser: argparse.ArgumentParser) -> None:
    """Give a command the option `--tracking-uri`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_TRACKING)
    parser.add_argument(
        "--tracking-uri", default=uri, metavar="URI", help="default: $MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here"
    )


def folder_of(ref: str, uri: str, place: str = "checkpoint") -> Path:
    """The local folder of a REF: itself, or a verified copy in a temporary folder that ends with the process.

    `place`: which folder of the run's artifacts. Raises `TrackingError`.
    """
    if Path(ref).is_dir():
        return Path(ref)
    import atexit
    import shutil
    import tempfile

    from tracking.errors import TrackingError
    from tracking.registry import pull as pull_ref

    folder = Path(tempfile.mkdtemp(prefix="dmkd-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        return pull_ref(ref, folder / "checkpoint", uri=uri, place=place)
    except TrackingError as error:
        if ":/" in ref:
            raise
        raise TrackingError(f"{ref!r} is no folder here, and as a leaderboard row: {error}") from None

"""Runs kept from the last reading, an experiment an Arrow file, so that only what changed is read from MLflow again.

`<experiment>.json` names the Arrow file, its SHA-256, and what was seen when it was written; the Arrow file is named by
its content. Both appear whole, under a new name, so any number of processes may read and write at once: each has a whole
state of some moment, and compares it with the tracker. What is damaged, missing or of another version is read anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tracking.places import sqlite_path, state_folder, write_text

if TYPE_CHECKING:
    import polars as pl

FORMAT = 2
"""Changed whenever older files are not to be read."""
SPARED = 60.0
"""Seconds for which a replaced file stays for those who are about to read it."""


class Kept(NamedTuple):
    """What the last reading left: its runs, with their states, and the card that stands beside them."""

    frame: pl.DataFrame
    card: dict[str, Any]

    @property
    def seen(self) -> Any:
        """What was seen of the tracker then."""
        return self.card["seen"]


def folder_of(uri: str) -> Path:
    """Beside a sqlite database where its folder can be written, else in this user's state folder."""
    path = sqlite_path(uri)
    if path is not None and os.access(path.parent, os.W_OK):
        return path.with_name(f"{path.name}.runs")
    return state_folder() / "runs" / hashlib.sha256(uri.encode()).hexdigest()[:16]


def read(folder: Path, experiment: str) -> Kept | None:
    """What is kept of an experiment, or None where there is nothing, or nothing that can be trusted."""
    import polars as pl

    try:
        card = json.loads((folder / f"{experiment}.json").read_text(encoding="utf-8"))
        if card["format"] != FORMAT or "seen" not in card or Path(card["file"]).name != card["file"]:
            return None
        content = (folder / card["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != card["sha256"]:
            return None
        return Kept(pl.read_ipc(io.BytesIO(content)), card)
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
        return None


def write(folder: Path, experiment: str, frame: pl.DataFrame, seen: Any) -> None:
    """Keep an experiment's runs. Where nothing can be written, nothing is kept: a cache is no reason to fail."""
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="lz4")
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    file = folder / f"{experiment}-{digest[:16]}.arrow"
    card = {"format": FORMAT, "file": file.name, "sha256": digest, "seen": seen}
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        partial.write_bytes(content)
        partial.replace(file)
        write_text(folder / f"{experiment}.json", json.dumps(card))
        _clear(folder, experiment, file)


def note(folder: Path, experiment: str, kept: Kept, seen: Any) -> None:
    """Keep what was seen where the runs are those that are kept: the card alone is written again."""
    with suppress(OSError):
        write_text(folder / f"{experiment}.json", json.dumps(kept.card | {"seen": seen}))


def forget(uri: str) -> None:
    """Make the next reading a full one: something was written that a tracker's answers would not show."""
    if sqlite_path(uri) is None:
        for card in folder_of(uri).glob("*.json"):
            card.unlink(missing_ok=True)


def _clear(folder: Path, experiment: str, kept: Path) -> None:
    for old in folder.glob(f"{experiment}-*.arrow*"):
        if old != kept and time.time() - old.stat().st_mtime > SPARED:
            old.unlink(missing_ok=True)

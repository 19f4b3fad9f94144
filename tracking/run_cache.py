"""Runs kept from the last reading, an experiment an Arrow file, so that only what changed is read from MLflow again.

`<experiment>.json` names the Arrow file, its SHA-256, and what was seen when it was written; the Arrow file is named by
its content. Where few runs changed after it, a second, small Arrow file has their rows, and the large one stays. All appear
whole, under a new name, so any number of processes may read and write at once: each has a whole state of some moment, and
compares it with the tracker. What is damaged, missing or of another version is read anew. A process holds the frames of the
last experiments that it read or wrote, with what their cards said, and reads those files no second time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tracking import frames
from tracking.places import sqlite_path, state_folder, write_text

if TYPE_CHECKING:
    import polars as pl

FORMAT = 3
"""Changed whenever older files are not to be read."""
SPARED = 60.0
"""Seconds for which a replaced file stays for those who are about to read it."""
HELD = 8
"""Frames that a process holds."""
FEW = 0.05
"""The largest share of the runs that is written beside the large file instead of a new one."""

_held: dict[tuple[Path, str], tuple[Any, pl.DataFrame]] = {}
"""(Folder, experiment) -> the files of a card and the runs that changed beside them, and what they are together."""


class Kept(NamedTuple):
    """What the last reading left: its runs, with their states, and the card that stands beside them."""

    frame: pl.DataFrame
    card: dict[str, Any]
    changed: frozenset[str]
    """Ids of the runs whose rows in the large file do not count: they are in the small one, or gone."""

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
        if card["format"] != FORMAT or "seen" not in card:
            return None
        what, frame = _held.get((folder, experiment), (None, None))
        if frame is None or what != _what(card):
            frame, *later = [_content(folder, name, digest) for name, digest in card["files"]]
            for few in later:
                rest = frame.filter(~pl.col("run_id").is_in(card["changed"]))
                frame = frames.ordered(pl.concat([rest, few], how="diagonal"))
            _hold(folder, experiment, card, frame)
        return Kept(frame, card, frozenset(card["changed"]))
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
        return None


def _hold(folder: Path, experiment: str, card: dict[str, Any], frame: pl.DataFrame) -> None:
    _held.pop((folder, experiment), None)
    _held[folder, experiment] = _what(card), frame
    for oldest in list(_held)[:-HELD]:
        _held.pop(oldest, None)


def _what(card: dict[str, Any]) -> list[Any]:
    """What tells whether a card is of the same runs: a small file may be the same where another run is gone."""
    return [card["files"], card["changed"]]


def _content(folder: Path, name: str, digest: str) -> pl.DataFrame:
    """An Arrow file of the folder. Raises `ValueError` for one of another place or content."""
    import polars as pl

    content = (folder / Path(name).name).read_bytes()
    if Path(name).name != name or hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(name)
    return pl.read_ipc(io.BytesIO(content))


def write(
    folder: Path, experiment: str, frame: pl.DataFrame, seen: Any, *, kept: Kept | None = None, changed: Set[str] | None = None
) -> None:
    """Keep an experiment's runs. Where nothing can be written, nothing is kept: a cache is no reason to fail.

    `changed`: ids of all runs whose rows are not those of `kept`, the gone ones too; None: perhaps of any.
    """
    import polars as pl

    beside = frozenset(changed or ()) | (kept.changed if kept else frozenset())
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        few_changed = kept is not None and changed is not None and len(beside) <= FEW * frame.height
        if kept is None or not few_changed or not (folder / kept.card["files"][0][0]).exists():
            files, beside = [_store(folder, experiment, frame)], frozenset()
        else:
            few = frame.filter(pl.col("run_id").is_in(beside))
            files = [kept.card["files"][0], _store(folder, experiment, few)]
        card = {"format": FORMAT, "files": files, "changed": sorted(beside), "seen": seen}
        write_text(folder / f"{experiment}.json", json.dumps(card))
        _hold(folder, experiment, card, frame)
        _clear(folder, experiment, {name for name, _ in files})


def _store(folder: Path, experiment: str, frame: pl.DataFrame) -> list[str]:
    """Write an Arrow file; its name and SHA-256."""
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="lz4")
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    file = folder / f"{experiment}-{digest[:16]}.arrow"
    partial = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.partial")
    partial.write_bytes(content)
    partial.replace(file)
    return [file.name, digest]


def note(folder: Path, experiment: str, kept: Kept, seen: Any) -> None:
    """Keep what was seen where the runs are those that are kept: the card alone is written again."""
    with suppress(OSError):
        write_text(folder / f"{experiment}.json", json.dumps(kept.card | {"seen": seen}))


def forget(uri: str) -> None:
    """Make the next reading a full one: something was written that a tracker's answers would not show."""
    if sqlite_path(uri) is None:
        for card in folder_of(uri).glob("*.json"):
            card.unlink(missing_ok=True)


def _clear(folder: Path, experiment: str, kept: Set[str]) -> None:
    for old in folder.glob(f"{experiment}-*.arrow*"):
        if old.name not in kept and time.time() - old.stat().st_mtime > SPARED:
            old.unlink(missing_ok=True)

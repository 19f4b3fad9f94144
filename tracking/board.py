"""The last board that was printed here, so that a bare number names its row, and is refused once the board has changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking.errors import TrackingError
from tracking.places import absolute_uri, state_folder, write_text

if TYPE_CHECKING:
    import polars as pl

AGAIN = "print it again with `dmkd leaderboard`"


def remember(
    frame: pl.DataFrame,
    uri: str,
    *,
    experiment: str | None,
    select_by: str,
    report: str,
    group_by: str,
    where: Sequence[str] = (),
    shown: Sequence[str] | None = None,
) -> None:
    """Note a printed board: how it was asked for, and its rows in the printed order (a row's number is its place, from 1).

    `shown`: the ids of the rows that were printed, where those are not all.
    """
    question = {"experiment": experiment, "select_by": select_by, "report": report, "group_by": group_by, "where": list(where)}
    rows = frame["id"].to_list() if shown is None else list(shown)
    write_text(_file(), json.dumps({"uri": absolute_uri(uri), "question": question, "rows": rows, "state": _state(frame)}))


def numbered(number: int, uri: str) -> dict[str, Any]:
    """A row of the last printed board, by its place. Raises `TrackingError` if there is none, or the board has changed."""
    from tracking.leaderboard import leaderboard
    from tracking.reading import load_runs

    note = _read()
    if note["uri"] != absolute_uri(uri):
        raise TrackingError(
            f"row {number}: the last board printed here was of {note['uri']}, not of {uri}; {AGAIN}, or give the row's id"
        )
    question = note["question"]
    frame = leaderboard(load_runs(uri, question.pop("experiment")), **question)
    if _state(frame) != note["state"]:
        raise TrackingError(f"row {number}: the board has changed since it was printed here; {AGAIN}, or give the row's id")
    if not 1 <= number <= len(note["rows"]):
        raise TrackingError(f"row {number}: the last board printed here has rows 1 to {len(note['rows'])}")
    return next(row for row in frame.to_dicts() if row["id"] == note["rows"][number - 1])


def _state(frame: pl.DataFrame) -> list[list[Any]]:
    """What must not change: which rows there are and what chose them, in an order that sharing a rank does not touch."""
    return sorted([str(value) for value in row] for row in frame.select("id", "validation", "run_id").iter_rows())


def _file() -> Path:
    return state_folder() / "board.json"


def _read() -> dict[str, Any]:
    try:
        note: dict[str, Any] = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise TrackingError(f"a bare number means a row of the last board printed here, and there is none; {AGAIN}") from None
    return note

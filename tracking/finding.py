"""A row of the leaderboard by what people call it, with the board that it stands on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from tracking import board
from tracking.errors import TrackingError
from tracking.leaderboard import boards, leaderboard
from tracking.places import absolute_uri, default_uri, local_folder
from tracking.reading import load_runs

if TYPE_CHECKING:
    import polars as pl

Row = dict[str, Any]


class Found(NamedTuple):
    """A row, and the runs of its experiment."""

    row: Row
    runs: pl.DataFrame


def find_row(ref: str, uri: str | None = None, experiment: str | None = None) -> Found:
    """The row that `ref` names: its id (6 characters do), its number on the last board printed here, or `runs:/ID` of a run.

    Raises `TrackingError` where nothing or several rows are so named.
    """
    uri = absolute_uri(uri) if uri else default_uri()
    if re.fullmatch(r"\d{1,4}", ref):
        row = board.numbered(int(ref), uri)
        return Found(row, load_runs(uri, row["experiment"]))
    if match := re.fullmatch(r"(?:runs:/)?([0-9a-f]{32})(?:/checkpoint)?", ref):
        return _only(ref, [found for found in _all_rows(uri, experiment) if match[1] in _run_ids(found.row)], "the run of")
    if not re.fullmatch(r"[0-9a-zA-Z]{6,8}", ref):
        raise TrackingError(
            f"{ref!r}: wanted the id of a leaderboard row, its number on the last board printed here, or runs:/RUN_ID"
        )
    return _only(ref, [found for found in _all_rows(uri, experiment) if found.row["id"].startswith(ref)], "named")


def _all_rows(uri: str, experiment: str | None) -> list[Found]:
    runs = load_runs(uri, experiment)
    found = []
    for _, own in runs.group_by("experiment", maintain_order=True):
        for frame in [leaderboard(own, *pair) for pair in boards(own)] or [leaderboard(own)]:
            found += [Found(row, own) for row in frame.to_dicts()]
    return found


def _run_ids(row: Row) -> list[str]:
    return [row["run_id"], *row["final_runs"], *row["search_runs"]]


def _only(ref: str, found: list[Found], how: str) -> Found:
    """The one row; where it stands on the boards of both roles, the one with a score of it."""
    scored = [one for one in found if one.row["validation"] is not None or one.row["test"] is not None]
    rows = {(one.row["experiment"], one.row["id"]): one for one in reversed(scored or found)}
    if len(rows) != 1:
        there = ", ".join(f"{name} in {experiment}" for experiment, name in rows) or "none"
        raise TrackingError(f"row {ref!r}: there are {len(rows)} rows {how} {ref!r} ({there}); say which with --experiment")
    return next(iter(rows.values()))


def text_of(run_id: str, artifact: str, runs: pl.DataFrame, uri: str | None = None) -> str:
    """A text file among a run's artifacts. Raises `TrackingError` where there is none."""
    import tempfile
    from pathlib import Path

    from tracking.reading import download

    uri = absolute_uri(uri) if uri else default_uri()
    folder = local_folder(runs.filter(runs["run_id"] == run_id)["artifact_uri"].item())
    if folder is not None:
        path: Path | None = folder / artifact
        text = path.read_text(encoding="utf-8") if path and path.is_file() else None
    else:
        with tempfile.TemporaryDirectory() as target:
            found = download(uri, run_id, artifact, target)
            text = Path(found).read_text(encoding="utf-8") if found else None
    if text is None:
        raise TrackingError(f"run {run_id}: has no {artifact}; only a run that ended as planned has one")
    return text

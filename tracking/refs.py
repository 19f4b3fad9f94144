"""What a REF names: a folder, `runs:/RUN_ID`, `models:/NAME@ALIAS` or `/VERSION`, or a row of the leaderboard."""

from __future__ import annotations

import re
from typing import Any

from tracking import board
from tracking.client import connect, translated
from tracking.errors import TrackingError

VERSION_REF = re.compile(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))")
"""A version by its alias or its number."""


def run_of(ref: str, uri: str) -> str:
    """The run id that `ref` names: `runs:/...`, `models:/...`, a row's id or its number. Raises `TrackingError`."""
    if match := re.fullmatch(r"runs:/([\w-]+)/?(?:checkpoint/?)?", ref):
        return match[1]
    if ref.startswith("models:/"):
        return str(version_of(ref, uri).run_id)
    if re.fullmatch(r"\d{1,4}", ref):
        return str(board.numbered(int(ref), uri)["run_id"])
    if re.fullmatch(r"[0-9a-zA-Z]{6,8}", ref):
        return _row_run(ref, uri)
    raise TrackingError(
        f"{ref!r}: no such file, and not runs:/RUN_ID, models:/NAME@ALIAS, or the id or number of a leaderboard row"
    )


def _row_run(row: str, uri: str) -> str:
    from tracking.leaderboard import boards, leaderboard
    from tracking.reading import load_runs

    # One board an experiment: the same configuration in two of them is two rows, with runs of its own in each.
    found, known = set(), set()
    for _, runs in load_runs(uri).group_by("experiment"):
        for frame in [leaderboard(runs, *pair) for pair in boards(runs)] or [leaderboard(runs)]:
            known |= set(frame["id"].to_list())
            found |= {(one["run_id"], one["id"]) for one in frame.to_dicts() if one["id"].startswith(row)}
    if len({run_id for run_id, _ in found}) != 1:
        what = "several rows" if found else "no row"
        there = ", ".join(sorted(known)[:20]) or "none"
        raise TrackingError(
            f"row {row!r}: {what} of {uri} so named; there are {there}: print one experiment's board and give the row's number"
        )
    return str(next(iter(found))[0])


def version_of(ref: str, uri: str) -> Any:
    """MLflow's model version of a `models:/...` REF. Raises `TrackingError` where there is none, or it is of no run."""
    match = VERSION_REF.fullmatch(ref)
    if match is None:
        raise TrackingError(f"{ref!r}: wanted models:/NAME@ALIAS or models:/NAME/VERSION")
    client = connect(uri)
    name, alias, version = match.groups()
    with translated(uri):
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    if not found.run_id:
        raise TrackingError(f"{ref}: version {found.version} belongs to no run, so dmkd did not promote it: promote a row")
    return found

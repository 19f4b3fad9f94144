"""The ranking: configurations, not lucky runs. Pure: frames in, a frame out; no tracker, no clock.

A row is one configuration: its search runs (tag `dmkd.stage` = search) give the validation score that ranks it, its final runs
(stage = final, joined by the tag `dmkd.row`) the test mean and its interval over seeds. Rules:

- rows are ranked by the validation mean, inside one `protocol`; rows of different protocols are never compared
- only runs that FINISHED count: a pruned or failed run has no score of its planned length; NaN and infinities are not ranked
- a seed counts once (and fold), its earliest finished run: repeating a run until it is lucky changes nothing
- with the outcomes of every test query, rows that a paired test cannot tell from the leader share rank 1
- the rows of an untrained network and of the teacher are references: shown, never ranked; an undistilled student is a candidate
- the share of the teacher gap that a row closes: (test - undistilled) / (teacher - undistilled), the references of its own table
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracking import student
from tracking.budgets import budgets
from tracking.candidates import STATED, candidates
from tracking.choosing import best_of_groups, chosen
from tracking.columns import frame_of
from tracking.comparison import NOTHING, beside
from tracking.errors import TrackingError
from tracking.labels import labels
from tracking.ranking import ranked

if TYPE_CHECKING:
    import polars as pl

    from tracking.outcomes import Queries

LEVEL = 0.95
CHOSEN_BY = ("recall_at_1", "map", "mean_average_precision_at_r")


def role(metric: str) -> str:
    """`asymmetric` where the teacher embeds the gallery (`val_asymmetric/map`), else `symmetric`."""
    return "asymmetric" if "_asymmetric" in metric.split("/", maxsplit=1)[0] else "symmetric"


def check_metrics(select_by: str, report: str) -> None:
    """Raises `TrackingError` where a row would be chosen on test, or chosen and reported in different roles."""
    if not select_by.startswith("val"):
        raise TrackingError(
            f"select_by {select_by!r}: a row is chosen on validation, as in val/recall_at_1; test scores are only reported"
        )
    if role(select_by) != role(report):
        raise TrackingError(
            f"select_by {select_by!r} is {role(select_by)} and report {report!r} {role(report)}: roles are separate tables"
        )


def boards(runs: pl.DataFrame, metrics: Sequence[str] = CHOSEN_BY) -> list[tuple[str, str]]:
    """The pairs (`select_by`, `report`) that these runs have, one a role, by the first of `metrics` that was logged."""
    pairs = []
    for kind in ("", "_asymmetric"):
        logged = [metric for metric in metrics if f"metrics.val{kind}/{metric}" in runs.columns]
        pairs += [(f"val{kind}/{metric}", f"test{kind}/{metric}") for metric in logged[:1]]
    return pairs


def other_roles(runs: pl.DataFrame, select_by: str) -> list[tuple[str, str]]:
    """The pairs of `boards` whose role is not that of `select_by`; its own metric first."""
    pairs = boards(runs, (select_by.split("/", 1)[-1], *CHOSEN_BY))
    return [pair for pair in pairs if role(pair[0]) != role(select_by)]


def leaderboard(
    runs: pl.DataFrame,
    select_by: str = "val/recall_at_1",
    report: str = "test/recall_at_1",
    group_by: str = "configuration",
    outcomes: Mapping[str, Any] | None = None,
    *,
    where: Sequence[str] = (),
) -> pl.DataFrame:
    """Rank the configurations in `runs` (of `load_runs`); best first within each `protocol`.

    `group_by` another key (method, backbone, resolution, any param) keeps the best row of each of its values; `where` holds
    conditions such as "student.resolution<=64" or "method=yu/*", fulfilled by every row but the references.
    `outcomes`: by run id, the columns `query, label, first_hit, ap, ap_at_r` of its test queries; they give the interval over
    classes and the shared ranks. `test_low/high` are the ends over seeds, `class_low/high` over classes; `runs` counts all runs.
    Raises `TrackingError` for metrics that do not belong together, or a key that is no column.
    """
    import polars as pl

    check_metrics(select_by, report)
    found = candidates(runs, select_by, report)
    found = found.filter(found["measured"])
    tests = found["reported"].to_list()
    queries = _queries(found, outcomes, report) if outcomes else {}
    means = [_mean(values) for values in tests]
    frame = _described(found, select_by, report).with_columns(
        pl.Series("validation", [_mean(values) for values in found["selected"].to_list()], pl.Float64),
        pl.Series("test", means, pl.Float64),
        *_ends("test", [student.t_interval(values, LEVEL) for values in tests]),
        *_ends("class", _over_classes(found["piece"].to_list(), queries)),
        *_printed(found, report, means),
        *budgets(found, runs),
        labels(found, runs),
    )
    frame = chosen(frame, runs, where) if where else frame
    frame = frame if group_by == "configuration" else best_of_groups(frame, runs, group_by)
    protocols = sorted(frame["protocol"].unique().to_list())
    return frame_of([ranked(frame.filter(frame["protocol"] == protocol), queries) for protocol in protocols])


def best(frame: pl.DataFrame) -> dict[str, Any]:
    """The winner of a leaderboard: first by validation. Raises `TrackingError` where none is ranked or protocols are mixed."""
    ranked = frame.filter(frame["rank"].is_not_null())
    if not ranked.height:
        raise TrackingError("no row is ranked: no run has finished with a finite validation score")
    if (protocols := ranked["protocol"].unique().to_list())[1:]:
        raise TrackingError(f"{len(protocols)} protocols on one board ({', '.join(sorted(protocols))}): say which row, by its id")
    return ranked.row(0, named=True)


def row_id(config_hash: str, protocol: str) -> str:
    """8 characters that name a row from run to run: 6 of the configuration, 2 of the search's protocol."""
    return config_hash[:6] + hashlib.sha256(protocol.encode()).hexdigest()[:2]


def _described(found: pl.DataFrame, select_by: str, report: str) -> pl.DataFrame:
    """The candidates with their ids, and with what was asked."""
    import polars as pl

    own = found["own_protocol"].unique().to_list()
    digests = pl.col("own_protocol").replace_strict(own, [row_id("", protocol) for protocol in own], return_dtype=pl.String)
    name = pl.col("config_hash").str.slice(0, 6) + digests
    # The teacher's where it embeds the gallery, if the runs say so; else the student's.
    gallery = "teacher.resolution" if role(select_by) == "asymmetric" else "resolution"
    return found.with_columns(
        id=name,
        reproduce="dmkd reproduce " + name,
        gallery_resolution=gallery,
        role=pl.lit(role(select_by)),
        select_by=pl.lit(select_by),
        report=pl.lit(report),
        validation_runs=pl.col("selected").list.len(),
        seeds=pl.col("reported").list.len(),
        group=pl.lit(None, pl.String),
    )


def _ends(name: str, intervals: list[tuple[float, float]]) -> list[pl.Series]:
    import polars as pl

    return [
        pl.Series(f"{name}_{end}", [pair[place] for pair in intervals], pl.Float64) for place, end in enumerate(("low", "high"))
    ]


def _printed(found: pl.DataFrame, report: str, means: list[float | None]) -> list[pl.Series]:
    """What papers printed of these rows, and the difference from it."""
    import polars as pl

    rows = zip(found.select(STATED).iter_rows(named=True), means, strict=True)
    told = [beside(tags, report, mean) if tags["published"] else NOTHING for tags, mean in rows]
    kinds = {name: pl.Float64 if name in ("published", "difference") else pl.String for name in NOTHING}
    return [pl.Series(name, [row[name] for row in told], kind) for name, kind in kinds.items()]


def _queries(frame: pl.DataFrame, outcomes: Mapping[str, Any], report: str) -> dict[int, Queries]:
    """By `piece`, the test queries of the counted final runs; none where a run's are missing or, being of another role, do not
    give its score."""
    from tracking.outcomes import gives, per_query

    found = {}
    for piece, run_ids, scores in frame.select("piece", "final_runs", "reported").iter_rows():
        own = [outcomes.get(run_id) for run_id in run_ids]
        if own and all(outcome is not None and gives(outcome, report, score) for outcome, score in zip(own, scores, strict=True)):
            queries = per_query(own, report)
            if queries is not None:
                found[piece] = queries
    return found


def _over_classes(pieces: list[int], queries: Mapping[int, Queries]) -> list[tuple[float, float]]:
    if not queries:  # NumPy, which only these need, takes a sixth of a warm leaderboard to import
        return [(math.nan, math.nan)] * len(pieces)
    from tracking.outcomes import class_interval

    return [class_interval(queries.get(piece), LEVEL) for piece in pieces]


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else (math.nan if values else None)

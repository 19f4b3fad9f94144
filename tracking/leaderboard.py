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

from tracking import statistics
from tracking.budgets import budgets
from tracking.candidates import Candidate, candidates
from tracking.choosing import best_of_groups, chosen
from tracking.columns import frame_of
from tracking.comparison import beside
from tracking.errors import TrackingError
from tracking.labels import labels
from tracking.outcomes import class_interval, gives, per_query, tested_against

if TYPE_CHECKING:
    import polars as pl

LEVEL = 0.95
LOWER_IS_BETTER = ("loss", "seconds", "gflops", "parameters", "memory_mb", "spectral_decay")
CHOSEN_BY = ("recall_at_1", "map", "mean_average_precision_at_r")
UNRANKED_REFERENCES = ("untrained", "teacher", "paper")


def role(metric: str) -> str:
    """`asymmetric` where the teacher embeds the gallery (`val_asymmetric/map`), else `symmetric`."""
    return "asymmetric" if "_asymmetric" in metric.split("/", maxsplit=1)[0] else "symmetric"


def lower_is_better(metric: str) -> bool:
    """The direction of a metric, from its name; recall, precision, NMI and their like are better when higher."""
    return metric.rsplit("/", 1)[-1].endswith(LOWER_IS_BETTER)


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
    check_metrics(select_by, report)
    found = [row for row in candidates(runs, select_by, report) if row.measured]
    rows = [
        _row(candidate, outcomes or {}, select_by, report) | {"label": label, "group": None} | spent
        for candidate, label, spent in zip(found, labels(found, runs), budgets(found, runs), strict=True)
    ]
    rows = chosen(rows, runs, where) if where else rows
    if group_by != "configuration":
        rows = best_of_groups(rows, runs, group_by, _is_ranked, _place)
    return frame_of([row for protocol in sorted({row["protocol"] for row in rows}) for row in _ranked(rows, protocol)])


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


def _row(candidate: Candidate, outcomes: Mapping[str, Any], select_by: str, report: str) -> dict[str, Any]:
    validation, test = candidate.values(candidate.search, select_by), candidate.values(candidate.final, report)
    low, high = statistics.t_interval(test, LEVEL)
    queries = per_query(_own_outcomes(candidate, outcomes, report), report)
    class_low, class_high = class_interval(queries, LEVEL)
    name = row_id(candidate.config_hash, candidate.own_protocol)
    return (
        candidate.facts()
        | {
            "id": name,
            "reproduce": f"dmkd reproduce {name}",
            "gallery_resolution": candidate.gallery_resolution(role(select_by)),
            "role": role(select_by),
            "select_by": select_by,
            "report": report,
            "validation": _mean(validation),
            "validation_runs": len(validation),
            "test": _mean(test),
            "test_low": low,
            "test_high": high,
            "class_low": class_low,
            "class_high": class_high,
            "seeds": len(test),
            "_queries": queries,
        }
        | beside(candidate.tags("published", "published_rule", "rule", "not_comparable"), report, _mean(test))
    )


def _own_outcomes(candidate: Candidate, outcomes: Mapping[str, Any], report: str) -> list[Any]:
    """The outcomes of the counted final runs; none where one is missing or, being of another role, does not give the score."""
    found = [outcomes.get(run["run_id"]) for run in candidate.final]
    pairs = zip(found, candidate.values(candidate.final, report), strict=True)
    return found if all(outcome is not None and gives(outcome, report, score) for outcome, score in pairs) else []


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else (math.nan if values else None)


def _is_ranked(row: dict[str, Any]) -> bool:
    return row["validation"] is not None and math.isfinite(row["validation"]) and row["reference"] not in UNRANKED_REFERENCES


def _place(row: dict[str, Any]) -> tuple[float, str]:
    """What sorts ranked rows, best first."""
    return row["validation"] * (1 if lower_is_better(row["select_by"]) else -1), row["id"]


def _ranked(rows: list[dict[str, Any]], protocol: str) -> list[dict[str, Any]]:
    """The rows of one protocol in order: ranked, then references, then those without a score as they were begun."""
    mine = _with_gaps([row for row in rows if row["protocol"] == protocol])
    order = _with_ranks(sorted((row for row in mine if _is_ranked(row)), key=_place))
    rest = [row | {"rank": None, "p_leader": None} for row in mine if not _is_ranked(row)]
    return order + sorted(rest, key=lambda row: (not row["reference"], row["status"]))


def _with_gaps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row of a table with the share of the gap between the undistilled (else the untrained) and the teacher's row."""
    scores = {row["reference"]: row["test"] for row in reversed(rows) if row["reference"] and _is_known(row["test"])}
    low, high = scores.get("undistilled", scores.get("untrained")), scores.get("teacher")
    gap = high - low if low is not None and high is not None else 0.0
    sign = -1 if rows and lower_is_better(rows[0]["report"]) else 1
    if low is None or not sign * gap > 0:
        return [row | {"gap_closed": None} for row in rows]
    return [row | {"gap_closed": (row["test"] - low) / gap if _is_known(row["test"]) else None} for row in rows]


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _with_ranks(order: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank 1 is the leader and those that no test tells from it; then places by validation, equal scores sharing one."""
    if not order:
        return []
    p_values = statistics.holm([tested_against(order[0]["_queries"], row["_queries"]) for row in order[1:]])
    order = [order[0] | {"p_leader": None}, *(row | {"p_leader": _known(p)} for row, p in zip(order[1:], p_values, strict=True))]
    tied = [row is order[0] or _shares(row, order[0]) for row in order]
    order = [row for _, row in sorted(zip(tied, order, strict=True), key=lambda pair: not pair[0])]
    first = sum(tied)
    seen: dict[float, int] = {}
    for place, row in enumerate(order):
        seen.setdefault(row["validation"], place)
    places = [1 if place < first else 1 + max(first, seen[row["validation"]]) for place, row in enumerate(order)]
    return [row | {"rank": place} for row, place in zip(order, places, strict=True)]


def _shares(row: dict[str, Any], leader: dict[str, Any]) -> bool:
    """Whether nothing tells a row from the leader: no test at the 5 % level, or, untested, not even the validation score."""
    return bool(row["validation"] == leader["validation"] if row["p_leader"] is None else row["p_leader"] > 1 - LEVEL)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

"""The gate before a promotion: is the candidate, in the gallery that is deployed now, worse than the present champion?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmkd.errors import DmkdError

if TYPE_CHECKING:
    from dmkd.compatibility import Cell, Compatibility, Pair
    from dmkd.evaluation.protocol import Outcomes

PER_QUERY = {"map": "ap", "mean_average_precision_at_r": "ap_at_r"}
"""Metrics that are means of a column of the outcomes, besides recall."""


class GateClosed(DmkdError, RuntimeError):
    """The candidate would be worse than what is deployed; the message says by how much."""


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    passed: bool
    text: str
    symmetric: float
    """The candidate's score in a gallery of its own."""
    numbers: dict[str, Any]
    """By "old queries, old gallery" and so on; and the difference with its interval."""

    def entry(self, metric: str, split: str) -> dict[str, Any]:
        """As the journal keeps it."""
        shown = {"verdict": self.text, "passed": self.passed, "metric": metric, "split": split, "symmetric": self.symmetric}
        return shown | self.numbers


def judge(
    searches: Compatibility, new: Pair, old: Pair | None, *, metric: str, tolerance: float, reindex: bool = False
) -> Verdict:
    """Measure the candidate `new` and what is deployed (`old`; None: nothing) and compare them in the gallery that will be there.

    That is the deployed one, or with `reindex` the candidate's own. It passes if it loses at most `tolerance` of `metric`.
    Raises `ConfigError` for an unknown metric.
    """
    symmetric = score(searches.search(new.queries, new.queries), metric)
    assert symmetric is not None
    if old is None:
        return _first(searches, new, metric, symmetric)
    cells = {(cell.queries, cell.gallery): cell for cell in searches.matrix(old, new)}
    numbers: dict[str, Any] = {f"{asked} queries, {shown} gallery": score(cell, metric) for (asked, shown), cell in cells.items()}
    champion, candidate = cells["old", "old"], cells["new", "new" if reindex else "old"]
    where = "each in its own gallery" if reindex else "in the deployed gallery"
    if candidate.reason:
        return Verdict(False, f"it cannot search the deployed gallery ({candidate.reason})", symmetric, numbers)
    before, after = score(champion, metric) or 0.0, score(candidate, metric) or 0.0
    low, high = interval(candidate.outcomes, champion.outcomes, metric)
    numbers |= {"difference": after - before, "low": low, "high": high}
    by = f"{100 * (after - before):+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"
    text = f"{metric} {where}: {after:.4f}, the champion's {before:.4f}: {by}"
    return Verdict(after - before >= -tolerance, text, symmetric, numbers)


def _first(searches: Compatibility, new: Pair, metric: str, symmetric: float) -> Verdict:
    """Nothing to be worse than; what is told of an asymmetric student is its score in the gallery that it was made for."""
    text = f"nothing was deployed; {metric} {symmetric:.4f} in its own gallery"
    if new.gallery == new.queries:
        return Verdict(True, text, symmetric, {})
    cell = searches.search(new.queries, new.gallery, role=new.role)
    there = score(cell, metric)
    if there is None:
        return Verdict(False, f"it cannot search the gallery that it is to come with ({cell.reason})", symmetric, {})
    text = f"nothing was deployed; {metric} {there:.4f} in its teacher's gallery, {symmetric:.4f} in its own"
    return Verdict(True, text, symmetric, {"new queries, new gallery": there})


def score(cell: Cell, metric: str) -> float | None:
    """A cell's metric; None where the two networks do not fit. Raises `ConfigError` for a metric that was not measured."""
    from dmkd.errors import ConfigError, nearest

    if cell.reason:
        return None
    if metric not in cell.scores:
        raise ConfigError(f"--metric {metric!r}: {nearest(metric, list(cell.scores))}")
    return cell.scores[metric]


def interval(new: Outcomes | None, old: Outcomes | None, metric: str) -> tuple[float, float]:
    """95 % interval of the difference over classes, drawn again together with their queries; NaN where there is none."""
    from tracking.statistics import class_bootstrap_interval

    if new is None or old is None or len(new.query) != len(old.query) or (new.query != old.query).any():
        return float("nan"), float("nan")
    if metric in PER_QUERY:
        difference = getattr(new, PER_QUERY[metric]) - getattr(old, PER_QUERY[metric])
    elif metric.startswith("recall_at_"):
        k = int(metric.rsplit("_", 1)[-1])
        difference = (new.first_hit <= k).astype(float) - (old.first_hit <= k)
    else:
        return float("nan"), float("nan")
    return class_bootstrap_interval(difference, new.label)

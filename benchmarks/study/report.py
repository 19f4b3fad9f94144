"""From the records of the study to docs/results.md: `python -m benchmarks.study.report`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from benchmarks.study.__main__ import HERE, RESULTS, SEEDS, TRIALS, Records, read
from benchmarks.study.arms import ARMS, BASE, EPOCHS, FALLS, FLATTER, FROZEN, ITERATIONS, LARGE, LONGER, SMALL, STUDENT, TEACHER
from benchmarks.study.claims import ASYMMETRIC, CLAIMS, Claim, Side
from benchmarks.study.work import REFERENCE_STAGES, SPACED, STAGES
from tracking.student import t_interval

PAGE = HERE.parent.parent / "docs" / "results.md"
TEMPLATE = HERE / "results_template.md"
READING = HERE / "reading.md"
"""Written by hand, of the shipped records; what is not from them says so."""
SETTING = {
    "seeds": SEEDS,
    "trials": TRIALS,
    "student": STUDENT,
    "teacher": TEACHER,
    "small": SMALL,
    "large": LARGE,
    "frozen": ", ".join(FROZEN),
    "size": BASE.method.batches.size,
    "per_class": BASE.method.batches.images_per_class,
    "epochs": EPOCHS,
    "iterations": ITERATIONS,
    "longer": LONGER,
    "flatter": FLATTER,
    "falls": " and ".join(f"{100 * fall:g} %" for fall in FALLS),
}
PLANS = {"final": "curve", "long": "long_curve", "flat": "flat_curve"}
"""Finals of one plan -> the curves of the same."""
Floats = NDArray[np.float64]
REFERENCES = {
    "untrained": f"untrained: {STUDENT} at {SMALL} px, pooled features",
    "teacher_row": f"teacher: {TEACHER} at {LARGE} px",
    "teacher_small": f"the teacher's network used at {SMALL} px (asymmetric: gallery at {LARGE} px)",
}


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval, in points of recall at 1."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """holds: the interval lies above 0; fails: below; undecided: 0 is in it."""
        return "holds" if self.low > 0 else "fails" if self.high < 0 else "undecided"


def paired_difference(counts: Floats, better: Floats, worse: Floats) -> Difference:
    """Interval of the difference in recall of two arms over training seeds and over classes, in points.

    `counts` [C] queries of each class; `better`, `worse` [S, C] hits of each seed and class, seeds paired. The standard error
    joins the spread of the seeds' differences (over S) with that of a ratio estimator over classes of their mean; the degrees
    of freedom are Satterthwaite's.
    """
    delta, queries = better - worse, counts.sum()
    seeds, classes = delta.shape
    per_seed = delta.sum(axis=1) / queries
    mean = per_seed.mean()
    left = delta.mean(axis=0) - mean * counts
    by_class = np.square(left).sum() * classes / (classes - 1) / queries**2
    by_seed = per_seed.var(ddof=1) / seeds if seeds > 1 else 0.0
    total = by_seed + by_class
    freedom = total**2 / (by_seed**2 / max(seeds - 1, 1) + by_class**2 / (classes - 1)) if total else 1.0
    reach = float(stdtrit(freedom, 0.975)) * math.sqrt(total)
    return Difference(100 * mean, 100 * (mean - reach), 100 * (mean + reach))


def hits(records: Records, side: Side, stage: str = "final") -> tuple[Floats, Floats] | None:
    """Queries of each class [C], hits [S, C] of a side's final runs; a reference row has one; None while runs are missing."""
    reference = side.arm in REFERENCES
    stage = REFERENCE_STAGES[stage] if reference else stage
    found = [record for record in records.values() if record["arm"] == side.arm and record["stage"] == stage and "hits" in record]
    found.sort(key=lambda record: record["seed"])
    if len(found) < (1 if reference else SEEDS):
        return None
    counts, _ = found[0]["hits"][side.role]
    return np.array(counts, dtype=float), np.array([record["hits"][side.role][1] for record in found], dtype=float)


def judge(records: Records, claim: Claim, stage: str = "final") -> Difference | None:
    """The difference of a claim; None while runs are missing. `stage`: one of `PLANS`."""
    better, worse = hits(records, claim.better, stage), hits(records, claim.worse, stage)
    if better is None or worse is None:
        return None
    return paired_difference(better[0], better[1], np.broadcast_to(worse[1], better[1].shape))


def page(records: Records, reading: str = "") -> str:
    """The page of some records; `reading` is what a person says of them, in Markdown."""
    judged, counted = _counted(records, "final")
    flat, counted_flat = _counted(records, "flat")
    return TEMPLATE.read_text(encoding="utf-8").format(
        claims=len(CLAIMS),
        counted=counted + f", {len(CLAIMS) - judged} not measured yet" * (judged < len(CLAIMS)),
        flat=flat,
        counted_flat=counted_flat,
        claim_rows="\n".join(_claim_row(records, claim) for claim in CLAIMS),
        baseline_rows=_baseline(records),
        arm_rows=_arm_rows(records, "final"),
        flat_rows=_arm_rows(records, "flat"),
        space_rows="\n".join(_space_row(records, arm) for arm in SPACED),
        reading=f"{reading.strip()}\n\n" if reading else "",
        runs=len(records),
        hours=sum(record["seconds"] for record in records.values()) / 3600,
        commits=", ".join(sorted({record["commit"] for record in records.values()})),
        versions=", ".join(
            sorted({f"{name} {value}" for record in records.values() for name, value in record["versions"].items()})
        ),
        **SETTING,
    )


def _counted(records: Records, stage: str) -> tuple[int, str]:
    """How many claims a plan judges, and how many with which verdict."""
    judged = [found.verdict for found in (judge(records, claim, stage) for claim in CLAIMS) if found]
    return len(judged), ", ".join(f"{judged.count(word)} {word}" for word in ("holds", "fails", "undecided"))


def _claim_row(records: Records, claim: Claim) -> str:
    first, *later = (_difference(judge(records, claim, stage)) for stage in PLANS)
    cells = [first or "not measured yet |", *(cell.replace(" |", "") for cell in later)]
    return f"| {claim.paper} | {claim.text} (`{claim.better.arm}` - `{claim.worse.arm}`) | {' | '.join(cells)} |"


def _difference(found: Difference | None) -> str:
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f}) | **{found.verdict}**" if found else ""


def _baseline(records: Records) -> str:
    untrained = hits(records, Side("untrained"))
    rows = []
    for stage, curve in PLANS.items():
        none, moved = hits(records, Side("none"), stage), _last_fifth(records, curve)
        last = "not measured yet" if moved is None else f"{moved:+.2f}"
        if none is None or untrained is None:
            rows.append(f"| {STAGES[stage].times} | not measured yet | | {last} |")
            continue
        gain = paired_difference(none[0], none[1], np.broadcast_to(untrained[1], none[1].shape))
        recall = 100 * none[1].sum() / (len(none[1]) * none[0].sum())
        above = f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
        rows.append(f"| {STAGES[stage].times} | {recall:.1f} | {above} | {last} |")
    return "\n".join(rows)


def _last_fifth(records: Records, stage: str) -> float | None:
    """By how much validation R@1 moves over the last fifth of a plan, in points, mean over seeds; None while runs are missing."""
    curves = [dict(record["curve"]) for record in records.values() if record["stage"] == stage and "curve" in record]
    if len(curves) < SEEDS:
        return None
    return float(100 * np.mean([curve[max(curve)] - curve[round(0.8 * max(curve))] for curve in curves]))


def _arm_rows(records: Records, stage: str) -> str:
    return "\n".join([*_reference_rows(records, stage), *(_arm_row(records, arm, stage) for arm in ARMS)])


def _reference_rows(records: Records, stage: str) -> list[str]:
    rows = []
    for name, text in REFERENCES.items():
        record = records.get(f"{name}/{REFERENCE_STAGES[stage]}/0/0")
        if record:
            rows.append(f"| {text} | {_score([record], 'test')} | {_score([record], ASYMMETRIC)} | {_gflops(record)} | | |")
    return rows


def _arm_row(records: Records, arm: str, stage: str) -> str:
    finals = [record for record in records.values() if record["arm"] == arm and record["stage"] == stage and "metrics" in record]
    if len(finals) < SEEDS:
        return f"| `{arm}` | not measured yet | | | | `make study ARMS={arm}` |"
    values = ", ".join(f"{key.removeprefix('method.')} {value:.3g}" for key, value in finals[0]["values"].items())
    scores = f"{_score(finals, 'test')} | {_score(finals, ASYMMETRIC)} | {_gflops(finals[0])}"
    return f"| `{arm}` | {scores} | {values} | `make study ARMS={arm}` |"


def _score(runs: list[Mapping[str, Any]], role: str) -> str:
    values = [100 * run["metrics"][f"{role}/recall_at_1"] for run in runs if f"{role}/recall_at_1" in run["metrics"]]
    if not values:
        return ""
    low, high = t_interval(values)
    return f"{np.mean(values):.1f}" + (f" ± {(high - low) / 2:.1f}" if len(values) > 1 else "")


def _gflops(record: Mapping[str, Any]) -> str:
    value = record["metrics"].get("model/gflops")
    return "" if value is None else f"{value:.3f}"


def _space_row(records: Records, arm: str) -> str:
    finals = [record for record in records.values() if record["arm"] == arm and record["stage"] == "final"]
    spaces = [record["space"] for record in finals if "space" in record]
    if len(spaces) < SEEDS:
        return f"| `{arm}` | not measured yet | |"
    ends = [t_interval([space[key] for space in spaces]) for key in ("density", "spectral_decay")]
    return f"| `{arm}` | " + " | ".join(f"{(low + high) / 2:.4f} ± {(high - low) / 2:.4f}" for low, high in ends) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study.report", description=__doc__)
    parser.add_argument("--results", default=str(RESULTS), help="records (default: the shipped ones)")
    parser.add_argument("--out", default=str(PAGE), help="the page (default: docs/results.md)")
    options = parser.parse_args()
    reading = READING.read_text(encoding="utf-8") if Path(options.results).resolve() == RESULTS else ""
    Path(options.out).write_text(page(read(Path(options.results)), reading), encoding="utf-8")


if __name__ == "__main__":
    main()

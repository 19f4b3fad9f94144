"""The Pareto front of a run of `sweeps/signs_front.py`: written down, as a table and as a chart for docs/search.md.

python sweeps/signs_front.py && python -m benchmarks.search.front && python -m benchmarks.search.report
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.search.grid import FOLDER

FRONT = FOLDER / "front.json"
NAME = "signs_front"
EXPERIMENT = f"signs/{NAME}"
SHOWN = {"student.backbone": "backbone", "student.resolution": "px", "student.dim": "dim"}


def record(storage: Path, uri: str) -> dict[str, Any]:
    """Every complete trial with its objectives, which of them are the front, and what the final stage saw on test."""
    from optuna.trial import TrialState

    from sweeps.study import open_study, ranked
    from tracking.leaderboard import leaderboard
    from tracking.reading import load_runs

    study = open_study(storage / NAME, NAME)
    front = {trial.number for trial in ranked(study)}
    trials = [
        {"trial": one.number, "accuracy": one.values[0], "gflops": one.values[1], "front": one.number in front}
        | {"values": {key: one.params.get(key) for key in SHOWN}}
        for one in study.get_trials(deepcopy=False)
        if one.state == TrialState.COMPLETE
    ]
    board = leaderboard(load_runs(uri, EXPERIMENT), "val/recall_at_1", "test/recall_at_1")
    columns = ("id", "reference", "label", "gflops", "val", "test", "class_low", "class_high")
    kept = [name for name in columns if name in board.columns]
    return {"trials": trials, "board": board.filter(board["test"].is_not_null()).select(kept).to_dicts()}


def load() -> dict[str, Any]:
    """The recorded front."""
    found: dict[str, Any] = json.loads(FRONT.read_text(encoding="utf-8"))
    return found


def table(found: dict[str, Any]) -> str:
    """The front in Markdown, the cheapest first."""
    lines = ["| trial | backbone | px | dim | GFLOPs a query | val recall at 1 |", "|---|---|---|---|---|---|"]
    for row in sorted((one for one in found["trials"] if one["front"]), key=lambda one: one["gflops"]):
        told = [str(row["values"][key]).removeprefix("timm/") for key in SHOWN]
        lines.append(f"| {row['trial']} | {' | '.join(told)} | {row['gflops']:.4f} | {100 * row['accuracy']:.1f} |")
    return "\n".join(lines)


def chart(found: dict[str, Any], path: Path) -> None:
    """Every trial, and the front as a staircase."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.8))
    for (name, marker), colour in zip(
        (("tf_efficientnet_lite0", "o"), ("test_efficientnet", "s")), ("#1f77b4", "#ff7f0e"), strict=True
    ):
        mine = [one for one in found["trials"] if one["values"]["student.backbone"].endswith(name)]
        axes.scatter([x["gflops"] for x in mine], [100 * x["accuracy"] for x in mine], marker=marker, color=colour, label=name)
    best = sorted((one["gflops"], 100 * one["accuracy"]) for one in found["trials"] if one["front"])
    axes.step(*zip(*best, strict=True), where="post", color="black", linewidth=1, label="Pareto front")
    for one in found["trials"]:
        told = f" {one['values']['student.resolution']} px, {one['values']['student.dim']}"
        if one["front"]:
            axes.annotate(told, (one["gflops"], 100 * one["accuracy"]), fontsize=7, va="bottom")
    axes.set(xlabel="GFLOPs of a query", ylabel="val recall at 1, %", xscale="log")
    axes.margins(x=0.1)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", type=Path, default=Path("dmkd-output"))
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db")
    options = parser.parse_args()
    FRONT.write_text(json.dumps(record(options.storage, options.tracking_uri), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

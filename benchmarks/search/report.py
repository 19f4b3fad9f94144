"""Make docs/search.md and its charts from the recorded curves and the replay.

python -m benchmarks.search.replay && python -m benchmarks.search.report
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from benchmarks.search import front
from benchmarks.search.grid import EPOCHS, GRIDS, STEPS, TONES, read
from benchmarks.search.landscape import METRIC, curves
from benchmarks.search.replay import BEST_OF, RESULTS, SEEDS
from benchmarks.search.sources import SOURCE

DOCS = Path(__file__).parents[2] / "docs"
TEMPLATE = Path(__file__).with_name("page.md")
RESAMPLES = 4000
COLOURS = ("#555555", "#1f77b4", "#aaaaaa", "#d62728", "#17becf", "#ff7f0e", "#9467bd", "#2ca02c", "#8c564b", "#e377c2")


def noise(method: str) -> tuple[float, float, int]:
    """Standard deviation of the final score between seeds, its range over the grid, and how many configurations were repeated."""
    groups: dict[str, list[float]] = {}
    for record in read().values():
        if record["method"] == method and len(record[METRIC]) == EPOCHS:
            groups.setdefault(json.dumps(record["values"]), []).append(record[METRIC][-1])
    repeated = [np.array(values) for values in groups.values() if len(values) > 1]
    squares = sum(((values - values.mean()) ** 2).sum() for values in repeated)
    freedom = sum(len(values) - 1 for values in repeated)
    finals = [values[0] for values in groups.values()]
    return math.sqrt(squares / freedom) if freedom else math.nan, max(finals) - min(finals), len(repeated)


def agreement(method: str) -> dict[int, tuple[float, float, float]]:
    """Epoch -> Spearman's correlation of the scores with the final ones, over all and over the better half by final score; and
    the share of the best tenth that a cut to the best third at this epoch would keep."""
    table = np.array(list(curves(method).values()))
    final = table[:, -1]
    better = final >= np.median(final)
    best = rankdata(-final, method="ordinal") <= max(1, len(final) // 10)
    found = {}
    for epoch in range(1, EPOCHS + 1):
        scores = table[:, epoch - 1]
        kept = rankdata(-scores, method="ordinal") <= len(scores) // 3
        found[epoch] = (
            float(spearmanr(scores, final).statistic),
            float(spearmanr(scores[better], final[better]).statistic),
            float(kept[best].mean()),
        )
    return found


def first_agreeing(found: dict[int, tuple[float, float, float]], level: float = 0.8) -> int:
    """The first epoch from which on the ranks agree to `level`, among all configurations and among the better half."""
    poor = [epoch for epoch, values in found.items() if min(values[:2]) < level]
    return max(poor, default=0) + 1


def ratio(epochs: list[float], peer: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean epochs over the peer's mean, with a 95 % bootstrap interval over seeds (both sides drawn anew)."""
    draw = np.random.default_rng(seed)
    ours, theirs = np.array(epochs), np.array(peer)
    drawn = [draw.choice(ours, len(ours)).mean() / draw.choice(theirs, len(theirs)).mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(ours.mean() / theirs.mean()), float(low), float(high)


def table(found: dict[str, Any]) -> str:
    """Epochs to the target by searcher, in Markdown."""
    peer = capped(found["epochs"]["random"], found)
    lines = ["| searcher | epochs to the target, median (quartiles) | ratio of means to random | reached |", "|---|---|---|---|"]
    for name, epochs in found["epochs"].items():
        reached = sum(math.isfinite(one) for one in epochs)
        ours = capped(epochs, found)
        middle, low, high = (float(np.percentile(ours, share)) for share in (50, 25, 75))
        times = "1" if name == "random" else "{:.2f} [{:.2f}, {:.2f}]".format(*ratio(ours, peer))
        lines.append(f"| {name} | {middle:.0f} ({low:.0f} to {high:.0f}) | {times} | {reached} of {len(epochs)} |")
    return "\n".join(lines)


def capped(epochs: list[float], found: dict[str, Any]) -> list[float]:
    """A search that did not reach the target counts with all the epochs that it was given."""
    return [one if math.isfinite(one) else found["cap"] for one in epochs]


def chart(found: dict[str, Any], path: Path) -> None:
    """Best score against epochs spent: the mean over seeds, with its 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.6))
    epochs = np.arange(EPOCHS, BEST_OF * EPOCHS + 1, EPOCHS)
    for (name, paths), colour in zip(found["paths"].items(), COLOURS, strict=True):
        values = np.where(np.array(paths) > 0, np.array(paths), np.nan)
        ready = np.isfinite(values).all(axis=0)
        mean, error = values[:, ready].mean(axis=0), values[:, ready].std(axis=0, ddof=1) / math.sqrt(len(values))
        axes.plot(epochs[ready], mean, label=name, color=colour, linewidth=1.6)
        axes.fill_between(epochs[ready], mean - 2.09 * error, mean + 2.09 * error, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(found["target"], color="black", linewidth=0.8, linestyle=":")
    axes.axhline(found["best"], color="black", linewidth=0.8)
    axes.set(xlabel="epochs spent by the search", ylabel=f"best {METRIC} of a finished trial")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def ramp_chart(path: Path) -> None:
    """How early ranks agree with final ones, by method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    for method, colour in zip(GRIDS, ("#d62728", "#1f77b4"), strict=True):
        found = agreement(method)
        axes.plot(list(found), [values[0] for values in found.values()], color=colour, label=f"{method}, all")
        axes.plot(
            list(found), [values[1] for values in found.values()], color=colour, linestyle="--", label=f"{method}, better half"
        )
    axes.axhline(0.8, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"epoch of {EPOCHS}", ylabel="Spearman with the final ranks")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def agreement_table() -> str:
    """Epochs against Spearman's correlations and what a cut would keep, in Markdown."""
    both = {method: agreement(method) for method in GRIDS}
    heads = [f"{method}: all | better half | best tenth kept" for method in GRIDS]
    lines = [f"| epoch | {' | '.join(heads)} |", "|---" * (1 + 3 * len(GRIDS)) + "|"]
    for epoch in (1, 2, 3, 4, 5, 6, 8, 10, 12, 14):
        cells = [f"{all_:.2f} | {better:.2f} | {kept:.0%}" for all_, better, kept in (both[method][epoch] for method in GRIDS)]
        lines.append(f"| {epoch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def facts(found: dict[str, Any]) -> dict[str, str]:
    """What the page's template is filled with."""
    told: dict[str, str] = {"seeds": str(SEEDS), "best_of": str(BEST_OF), "source": str(SOURCE), "epochs": str(EPOCHS)}
    told |= {"metric": METRIC, "target": f"{found['target']:.4f}", "best": f"{found['best']:.4f}", "ready": str(found["ready"])}
    told |= {"steps": str(STEPS), "cap": str(found["cap"])}
    for method in GRIDS:
        spread, width, repeated = noise(method)
        told |= {
            f"{method}_curves": str(len(curves(method))),
            f"{method}_noise": f"{spread:.4f}",
            f"{method}_range": f"{width:.3f}",
        }
        told |= {f"{method}_times": f"{width / spread:.0f}", f"{method}_repeated": str(repeated)}
        told |= {f"{method}_agrees": str(first_agreeing(agreement(method)))}
    peer, cold = (capped(found["epochs"][name], found) for name in ("random", "TPE + ASHA"))
    for name, epochs in found["epochs"].items():
        key = name.lower().replace(" + ", "_").replace(", ", "_").replace(": ", "_").replace(" ", "_")
        told[f"ratio_{key}"] = "{:.2f} [{:.2f}, {:.2f}]".format(*ratio(capped(epochs, found), peer))
        told[f"cold_{key}"] = "{:.2f} [{:.2f}, {:.2f}]".format(*ratio(capped(epochs, found), cold))
        told[f"median_{key}"] = f"{np.median(capped(epochs, found)):.0f}"
    told |= {
        "toned": str(len(curves("obd_sd", path=TONES))),
        "toned_agrees": f"{transfer():.2f}",
        "front": front.table(front.load()),
    }
    return told | {"table": table(found), "agreement": agreement_table()}


def transfer() -> float:
    """Spearman's correlation of the final scores of the configurations that were trained on both data sets."""
    here, there = curves("obd_sd"), curves("obd_sd", path=TONES)
    both = sorted(set(here) & set(there))
    return float(spearmanr([here[one][-1] for one in both], [there[one][-1] for one in both]).statistic)


def page(found: dict[str, Any]) -> str:
    """docs/search.md from the curves and a replay."""
    text = TEMPLATE.read_text(encoding="utf-8")
    for key, value in facts(found).items():
        text = text.replace(f"<<{key}>>", value)
    return text


def load() -> dict[str, Any]:
    """The recorded replay."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found | {"epochs": {name: [float(one) for one in epochs] for name, epochs in found["epochs"].items()}}


def main() -> None:
    found = load()
    (DOCS / "search.md").write_text(page(found), encoding="utf-8")
    chart(found, DOCS / "images" / "search.png")
    ramp_chart(DOCS / "images" / "search-ramp.png")
    front.chart(front.load(), DOCS / "images" / "search-front.png")


if __name__ == "__main__":
    main()

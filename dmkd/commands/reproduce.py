"""`dmkd reproduce`: run a row of the leaderboard again, and say whether its number came back."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.commands import Add
from dmkd.commands.places import folder_of, tracked
from dmkd.errors import ConfigError

if TYPE_CHECKING:
    from dmkd.config import Config
    from dmkd.trainer import Epoch

PACKAGES = ("python", "torch", "torchvision", "timm", "numpy", "faiss-gpu", "pytorch-metric-learning")
"""What may change a number."""
ROOT = Path(__file__).resolve().parents[2]


def add(command: Add) -> None:
    """The parser."""
    reproduce_ = command(
        "reproduce", reproduce, "train a leaderboard row again: same configuration, split and seed; did it come back?"
    )
    reproduce_.add_argument(
        "row", metavar="ROW", help="its id, its number on the last board printed here, or runs:/ID of one run"
    )
    reproduce_.add_argument("--seed", type=int, default=None, metavar="N", help="which of the row's seeds (default: the lowest)")
    reproduce_.add_argument(
        "--tolerance", type=float, default=0.005, metavar="X", help="largest difference of the score (default: %(default)s)"
    )
    reproduce_.add_argument("--teacher", default="", metavar="REF", help="where the teacher's checkpoint is now")
    reproduce_.add_argument("--data-root", default="", metavar="DIR", help="where the data are now")
    reproduce_.add_argument("--experiment", default=None, metavar="E", help="where a row's id stands in several experiments")
    reproduce_.add_argument("--out", default="", metavar="DIR", help="default: dmkd-output/reproduce/<row>")
    tracked(reproduce_)


def reproduce(options: argparse.Namespace) -> None:
    """Train it again. Exit status 1 where the number did not come back."""
    from dmkd.space import override
    from tracking.finding import find_row, text_of

    found = find_row(options.row, options.tracking_uri, options.experiment)
    run = _run(found.row, found.runs, options.seed)
    config = override(_config(text_of(run["run_id"], "config.yaml", found.runs, options.tracking_uri)), _moved(options))
    _check_networks(config)
    for line in _differences(run, text_of(run["run_id"], "environment.txt", found.runs, options.tracking_uri)):
        print(f"note: {line}", file=sys.stderr)
    metric = found.row["report"] if found.row["final_runs"] else found.row["select_by"]
    if found.row["final_runs"]:
        print("note: " + _look(run["run_id"], options.tracking_uri), file=sys.stderr)
    out = Path(options.out or f"dmkd-output/reproduce/{found.row['id']}-seed{config.seed}")
    print(f"{found.row['id']} {found.row['label']}, seed {config.seed}, in {out}", flush=True)
    scores = _trained(config, out, run)
    if not _verdict(run, scores, metric, options.tolerance):
        sys.exit(1)


def _run(row: Mapping[str, Any], runs: Any, seed: int | None) -> dict[str, Any]:
    """The run to repeat: of the final stage, else of the search; the one that stands for the row, or the one with a seed."""
    chosen = row["final_runs"] or row["search_runs"] or [row["run_id"]]
    known = {run["run_id"]: run for run in runs.filter(runs["run_id"].is_in(chosen)).to_dicts()}
    if seed is None:
        return dict(known.get(row["run_id"]) or known[chosen[0]])
    for run in known.values():
        if run.get("tags.dmkd.seed") == str(seed):
            return dict(run)
    seeds = ", ".join(sorted(str(run.get("tags.dmkd.seed")) for run in known.values()))
    raise ConfigError(f"row {row['id']}: has no run with seed {seed}; there are {seeds}")


def _config(text: str) -> Config:
    import yaml

    from dmkd.config import from_dict

    return from_dict(yaml.safe_load(text))


def _moved(options: argparse.Namespace) -> dict[str, Any]:
    """What lies elsewhere now; nothing that changes what is trained."""
    changes: dict[str, Any] = {"data.root": options.data_root} if options.data_root else {}
    return changes | ({"teacher.checkpoint": str(folder_of(options.teacher, options.tracking_uri))} if options.teacher else {})


def _check_networks(config: Config) -> None:
    places = {"teacher": config.teacher.checkpoint, "student": config.student.checkpoint}
    for side, place in places.items():
        if place and place != "teacher" and not Path(place).is_dir():
            raise ConfigError(
                f"{side}.checkpoint {place}: is not there any more; "
                + ("give it by --teacher REF (a folder, runs:/ID, models:/NAME@ALIAS)" if side == "teacher" else "put it back")
            )


def _differences(run: Mapping[str, Any], environment: str) -> Iterator[str]:
    """What of the code and of the packages is not what the run had."""
    was, now = run.get("tags.dmkd.commit"), _git("rev-parse", "HEAD")
    if not was or not now:
        yield f"the commit cannot be compared (the run says {was or 'none'}, this code {now or 'none'})"
    elif was != now:
        yield f"the run was made by commit {was[:10]}, this code is {now[:10]}: git checkout {was[:10]} for the same"
    if now and _git("status", "--porcelain", "--untracked-files=no"):
        yield "this code has changes that are not committed"
    theirs = _versions(environment)
    changed = [
        f"{name} {theirs[name]} (now {_installed(name)})"
        for name in PACKAGES
        if theirs.get(name, _installed(name)) != _installed(name)
    ]
    if changed:
        yield f"the run had {', '.join(changed)}"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _versions(environment: str) -> dict[str, str]:
    lines = [line.removeprefix("# python ") if line.startswith("# python") else line for line in environment.splitlines()]
    named = [line.split("==", 1) if "==" in line else ["python", line] for line in lines if line.strip()]
    return {name.lower(): version.strip() for name, version in named}


def _installed(name: str) -> str:
    from importlib import metadata

    if name == "python":
        return sys.version.split()[0]
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _look(run_id: str, uri: str) -> str:
    """Count the test look that this is; what to say of it."""
    from tracking.errors import TrackingError
    from tracking.looks import count_look

    try:
        return f"it ends with a look at the test classes, counted on the run as look {count_look(f'runs:/{run_id}', uri)}"
    except TrackingError as error:
        return f"it ends with a look at the test classes, which could not be counted: {error}"


def _trained(config: Config, out: Path, run: Mapping[str, Any]) -> dict[str, float]:
    """The scores of the last epoch. Raises `ConfigError` where the data are not the run's."""
    from dmkd.run import train_into

    scores: dict[str, float] = {}
    for epoch in train_into(config, out):
        _check_data(epoch, config, run)
        scores = {key: value for key, value in epoch.metrics.items() if key.startswith(("val", "test")) and "/" in key}
        print(f"epoch {epoch.number}/{config.optim.epochs}", flush=True)
    return scores


def _check_data(epoch: Epoch, config: Config, run: Mapping[str, Any]) -> None:
    """The run's protocol binds its split, which binds every picture. Raises `ConfigError` where it cannot be reached here."""
    from dmkd.evaluation import protocol_fingerprint

    parts, was = epoch.training.parts, run.get("tags.dmkd.protocol")
    form = config.evaluation.average_precision
    # The fingerprint is made from the sweep's base, whose gallery may be another than this row's (the teacher's row, say).
    seen = [
        " ".join(filter(None, (parts.quality(config.data, side), config.evaluation.protocol))) for side in ("student", "teacher")
    ]
    here = [protocol_fingerprint(parts.fingerprint, config.data.protocol, average_precision=form, quality=text) for text in seen]
    if was and was not in here:
        raise ConfigError(
            f"the data are not those of the run (protocol {here[0]}, the run's {was}): the same pictures and split are wanted; "
            "--data-root says where they are"
        )


def _verdict(run: Mapping[str, Any], scores: Mapping[str, float], metric: str, tolerance: float) -> bool:
    """Print what came back; whether the score that counts did."""
    logged = {key: run[f"metrics.{key}"] for key in scores if run.get(f"metrics.{key}") is not None}
    for key, was in logged.items():
        print(f"{key:48s} {was:.6f} -> {scores[key]:.6f}  {scores[key] - was:+.6f}")
    if metric not in logged:
        raise ConfigError(f"the run logged no {metric}, so nothing can be said; it has {', '.join(logged) or 'no scores'}")
    difference = abs(scores[metric] - logged[metric])
    same = math.isfinite(difference) and difference <= tolerance
    told = "came back" if same else "did NOT come back"
    print(f"{metric} {told}: {logged[metric]:.6f} -> {scores[metric]:.6f}, tolerance {tolerance:g}")
    return same

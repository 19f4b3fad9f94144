"""`python -m benchmarks.study --data MANIFEST`: run what has no record yet, best first; stop and start it as you like."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scipy.stats import qmc

from benchmarks.study.arms import ARMS, LONG, TEACHER_ARM, Arm
from benchmarks.study.work import REFERENCE_STAGES, SIGNS, STAGES, Job, chosen, single_thread, teacher_folder, work
from dmkd.run import selection_role
from dmkd.space import Range, flatten

TRIALS, SEEDS, TEACHER_TRIALS = 8, 5, 3
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"
REFERENCES = ("untrained", "teacher_row", "teacher_small")

Records = dict[str, dict[str, Any]]


def read(path: Path) -> Records:
    """Every finished run by its key; a line that an interruption cut short is left out."""
    records: Records = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records[record["key"]] = record
    return records


def points(name: str, arm: Arm, trials: int) -> list[tuple[tuple[str, float], ...]]:
    """The values of each trial: first the arm's own (the paper's), then a scrambled Sobol sequence over its ranges."""
    own = flatten(arm.config)
    ranges = arm.ranges
    sobol = qmc.Sobol(len(ranges), rng=zlib.crc32(name.encode())).random_base2(math.ceil(math.log2(trials)))
    drawn = [tuple((key, _scaled(where, at)) for (key, where), at in zip(ranges.items(), row, strict=True)) for row in sobol]
    return [tuple((key, float(own[key])) for key in ranges), *drawn[: trials - 1]]


def _scaled(where: Range, at: float) -> float:
    if where.log:
        return float(f"{math.exp(math.log(where.low) + at * math.log(where.high / where.low)):.4g}")
    return float(f"{where.low + at * (where.high - where.low):.4g}")


def ready(records: Records, names: list[str], folder: Path) -> Iterator[Job]:
    """Jobs that can run now and have no record, in the order in which they are wanted."""
    yield from _open(records, _teacher_jobs(records))
    for arm in names:
        yield from _open(records, _trials(arm, folder))
        yield from _open(records, _finals(records, arm, folder, ["final"] + ["curve"] * (arm == "none")))
    yield from _open(records, _references("final", folder))
    for arm in (name for name in LONG if name in names):
        yield from _open(records, _finals(records, arm, folder, ["long"] + ["long_curve"] * (arm == "none")))
    for arm in names:
        yield from _open(records, _trials(arm, folder, "flat_tune"))
        yield from _open(records, _finals(records, arm, folder, ["flat_curve"] * (arm == "none") + ["flat"]))
    yield from _open(records, _references("flat", folder))


def _references(stage: str, folder: Path) -> list[Job]:
    if not teacher_folder(folder, stage).is_dir():
        return []
    return [Job(name, REFERENCE_STAGES[stage], 0, 0) for name in REFERENCES]


def _finals(records: Records, arm: str, folder: Path, stages: list[str]) -> list[Job]:
    """Every seed of the stages with the values that their tuning chose; none yet where trials or the teacher are missing."""
    best = chosen(records, arm, TRIALS, selection_role(ARMS[arm].config), STAGES[stages[0]].tuned)
    if best is None or (ARMS[arm].teacher and not teacher_folder(folder, "final").is_dir()):
        return []
    values = tuple(best["values"].items())
    return [Job(arm, stage, best["trial"], seed, values) for stage in stages for seed in range(SEEDS)]


def _trials(arm: str, folder: Path, stage: str = "tune") -> list[Job]:
    """The trials of an arm; none yet where it learns from a teacher that is not there."""
    if ARMS[arm].teacher and not teacher_folder(folder, stage).is_dir():
        return []
    return _tuning(arm, ARMS[arm], TRIALS, stage)


def _tuning(name: str, arm: Arm, trials: int, stage: str = "tune") -> list[Job]:
    return [Job(name, stage, trial, 0, values) for trial, values in enumerate(points(name, arm, trials))]


def _teacher_jobs(records: Records) -> list[Job]:
    best = chosen(records, "teacher", TEACHER_TRIALS, "val")
    if best is None:
        return _tuning("teacher", TEACHER_ARM, TEACHER_TRIALS)
    return [Job("teacher", "final", best["trial"], 0, tuple(best["values"].items()))]


def _open(records: Records, jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if job.key not in records]


def place_teachers(records: Records, folder: Path) -> None:
    """Give the chosen teachers their final names, once they are there."""
    best = chosen(records, "teacher", TEACHER_TRIALS, "val")
    for stage in ("tune", "final"):
        source = folder / "teachers" / f"{stage}-{best['trial']}" if best else None
        target = teacher_folder(folder, stage)
        if source is not None and source.is_dir() and not target.is_dir():
            shutil.copytree(source, target)


def run(root: str, folder: Path, results: Path, names: list[str], workers: int) -> None:
    """Run every open job in `workers` processes; each finished run is appended to `results` at once."""
    records = read(results)
    stamp = {"commit": _commit(), "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")}}
    running: dict[Future[dict[str, Any]], str] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=single_thread) as pool:
        while True:
            place_teachers(records, folder)
            busy = set(running.values())
            for job in ready(records, names, folder):
                if len(running) >= workers:
                    break
                if job.key not in busy:
                    running[pool.submit(work, job, root, str(folder))] = job.key
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del running[future]
                record = future.result() | stamp
                records[record["key"]] = record
                with results.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(record) + "\n")
                print(_line(record), flush=True)


def _line(record: dict[str, Any]) -> str:
    metrics = record.get("metrics", {})
    scores = {key: round(100 * value, 1) for key, value in metrics.items() if key.endswith("recall_at_1")}
    return f"{record['key']} {record['values']} {scores or record.get('failed')} {record['seconds']} s"


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE)
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--data", default=SIGNS, help="a manifest (CSV: path, class, group, split), or signs (default)")
    parser.add_argument("--folder", default=".study", help="where teachers are kept (default: %(default)s)")
    parser.add_argument("--results", help="records of finished runs (default: FOLDER/results.jsonl)")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--workers", type=int, default=2, help="runs at once, a core each (default: %(default)s)")
    options = parser.parse_args()
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    run(options.data, folder, Path(options.results or folder / RESULTS.name), options.arms, options.workers)


if __name__ == "__main__":
    main()

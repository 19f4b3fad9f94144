"""Ours against a named peer, in one process and in turn: the same answer first, then the ratio of medians with its spread.

    ratio("R@1, 5,924 x 512", ours, peer, peer_name="pytorch-metric-learning", goal=0.4)

times both and prints a line; under `make bench` it is also a row of benchmarks/results.json. What is measured otherwise (in other
processes, against a server) takes `record`; what this machine cannot measure is said by `not_measured`, with the command.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = "DMKD_BENCH_RESULTS"
"""Environment variable: the file that collects the rows; unset, they are only printed."""
PACKAGES = (
    "torch",
    "numpy",
    "faiss-gpu",
    "pytorch-metric-learning",
    "torchvision",
    "pillow",
    "polars",
    "mlflow",
    "ray",
    "optuna",
)

Run = Callable[[], object]


def ratio(
    name: str,
    ours: Run,
    peer: Run,
    *,
    peer_name: str,
    repeats: int = 5,
    goal: float | None = None,
    limit: Run | float | None = None,
    limit_name: str = "",
    note: str = "",
) -> float:
    """Time both in turn after one warm-up each; print and record medians; return ours / peer (lower is better).

    The ratio is that of CPU seconds over all threads of this process (on a GPU: of wall seconds, the device awaited), which a
    busy machine disturbs least; wall seconds are recorded beside them. `limit` is what no program could do without: timed too,
    or seconds.
    """
    runs = {"ours": ours, "peer": peer} | ({"limit": limit} if callable(limit) else {})
    cpu: dict[str, list[float]] = {who: [] for who in runs}
    wall: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(repeats + 1):
        for who, run in runs.items():
            seconds = timed(run)
            wall[who].append(seconds[0])
            cpu[who].append(seconds[1])
    clock = "wall" if on_gpu() else "cpu"
    times = {who: (wall if on_gpu() else cpu)[who][1:] for who in runs}
    least = statistics.median(times["limit"]) if "limit" in times else limit
    return record(
        name,
        times["ours"],
        times["peer"],
        peer_name=peer_name,
        goal=goal,
        limit=least if isinstance(least, float) else None,
        limit_name=limit_name,
        clock=clock,
        note=note,
        ours_wall=statistics.median(wall["ours"][1:]),
        peer_wall=statistics.median(wall["peer"][1:]),
    )


def timed(run: Run) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if on_gpu():
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def record(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    peer_name: str,
    goal: float | None = None,
    limit: float | None = None,
    limit_name: str = "",
    unit: str = "s",
    clock: str = "wall",
    note: str = "",
    **more: Any,
) -> float:
    """Print and record a row from measurements of both sides (in `unit`, less is better); return the ratio of medians.

    Spread: least and largest ratio of the pairs, or, where one side was measured less often, of its extremes.
    """
    first, second = statistics.median(ours), statistics.median(peer)
    if len(ours) == len(peer):
        pairs = [a / b for a, b in zip(ours, peer, strict=True)]
    else:
        pairs = [min(ours) / max(peer), max(ours) / min(peer)]
    result = first / second
    told = f"{name}: ours {first:.4g} {unit}, {peer_name} {second:.4g} {unit} ({clock}), ratio {result:.3g}"
    told += f" ({min(pairs):.3g} to {max(pairs):.3g}, {len(ours)} and {len(peer)} repetitions)"
    told += f", goal {goal:g}: {'reached' if result <= goal else 'MISSED'}" if goal is not None else ""
    told += f", limit {limit:.4g} {unit}: {first / limit:.2f} x" if limit else ""
    print(told, flush=True)
    collect(
        {
            "name": name,
            "ours": first,
            "peer": second,
            "peer_name": peer_name,
            "unit": unit,
            "clock": clock,
            "limit": limit,
            "limit_name": limit_name,
            "ratio": result,
            "goal": goal,
            "spread": [min(pairs), max(pairs)],
            "repetitions": [len(ours), len(peer)],
            "note": note,
            **more,
        }
    )
    return result


def alone(name: str, ours: Sequence[float], *, unit: str = "s", clock: str = "wall", note: str = "", **more: Any) -> None:
    """Print and record a row that has no peer: how a cost grows, beyond what the peer can do in minutes."""
    middle = statistics.median(ours)
    print(f"{name}: {middle:.4g} {unit} ({clock}; {min(ours):.3g} to {max(ours):.3g}, {len(ours)} repetitions)", flush=True)
    row = dict.fromkeys(("peer", "limit", "ratio", "goal"))
    told = {"unit": unit, "clock": clock, "spread": [min(ours), max(ours)], "repetitions": [len(ours), 0], "note": note}
    collect({"name": name, "ours": middle, "peer_name": "", **row, **told, **more})


def not_measured(name: str, *, goal: float | None, command: str, why: str, peer_name: str = "") -> None:
    """Say, and record, that this machine cannot measure a row, and the command that will."""
    print(f"{name}: not measured ({why}); {command}", flush=True)
    row = dict.fromkeys(("ours", "peer", "limit", "ratio", "spread"))
    collect({"name": name, **row, "goal": goal, "peer_name": peer_name, "note": f"not measured: {why}", "command": command})


def collect(row: dict[str, Any]) -> None:
    """Put a row into the file of results, in the place of the one of this name."""
    if not os.environ.get(RESULTS):
        return
    file = Path(os.environ[RESULTS])
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    row |= {"command": row.get("command", " ".join(["python", *sys.argv])), **here()}
    places = [place for place, known in enumerate(rows) if known["name"] == row["name"]]
    rows[slice(*([places[0], places[0] + 1] if places else [len(rows), len(rows)]))] = [row]
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(file)


def here() -> dict[str, Any]:
    """Versions, machine, commit and time that a row belongs to."""
    return {
        "versions": {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES},
        "machine": machine(),
        "commit": commit(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def installed(name: str) -> str:
    """The version of a package; none where another stands for it, or it is not needed (faiss-cpu, Ray)."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def machine() -> str:
    """Processor, cores, memory and GPU of this machine, in words."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if on_gpu() else "no GPU"
    return f"{model}, {os.cpu_count()} cores ({torch.get_num_threads()} threads), {memory:.0f} GiB, {gpu}"


def commit() -> str:
    """The commit measured, with a plus where the tree differs from it in more than these rows; empty outside a repository."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results.json")
    return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)


def on_gpu() -> bool:
    """Whether measurements are made on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


def device() -> str:
    """Where the measured tensors lie."""
    return "cuda" if on_gpu() else "cpu"


def peak_memory(run: Run) -> float:
    """MiB by which a run raises this process's resident memory at its highest (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def heading() -> None:
    """Which machine and versions the ratios belong to."""
    found = ", ".join(f"{name} {installed(name)}" for name in PACKAGES[:4])
    print(f"python {platform.python_version()}, {found}; {machine()}; commit {commit()}", flush=True)

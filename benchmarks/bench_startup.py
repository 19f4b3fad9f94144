"""How long until `dmkd --help` and a warm `dmkd leaderboard` have answered, against `import mlflow`; a process each time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from many_runs import make_database
from ratio import record

REPEATS = 7


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"DMKD_STATE": f"{folder}/state"}
        uri = make_database(Path(folder) / "mlflow.db", 200)
        ours = {
            "dmkd --help": ["-m", "dmkd", "--help"],
            "dmkd leaderboard, warm, 200 runs": ["-m", "dmkd", "leaderboard", "--tracking-uri", uri],
        }
        peer = [seconds(["-c", "import mlflow"], environment) for _ in range(REPEATS + 1)][1:]
        for name, arguments in ours.items():
            times = [seconds(arguments, environment) for _ in range(REPEATS + 1)][1:]
            record(name, times, peer, peer_name="import mlflow", goal=0.25, clock="cpu")


def seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

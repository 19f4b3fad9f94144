"""The scripts of the published tables, loaded as modules, and how scripts are run in this process and in another."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

from sweeps import cars_s2sd
from sweeps.cluster import ROOT
from sweeps.tables import Table

FOLDER = Path(cars_s2sd.__file__).parent
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.read_text(encoding="utf-8").startswith("#!"))
"""Every script that a user starts."""


def tables() -> dict[str, Table]:
    """Name -> what the script states, of every published table."""
    papers = [path.stem for path in SCRIPTS if path.stem.startswith(("yu_", "s2sd_", "aml_", "raml_", "obdsd_"))]
    return {name: importlib.import_module(f"sweeps.{name}").TABLE for name in papers}


def run_script(path: Path, arguments: list[str]) -> tuple[int, str, str]:
    """A script in this process, as `python -m` would start it: status, standard output, standard error."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [str(path), *arguments]
    status: int | str | None = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    finally:
        sys.argv = before
    return int(status or 0), out.getvalue(), err.getvalue()


def run_apart(code: str, folder: Path, seconds: float) -> str:
    """Python code in a process of its own, which makes a Ray of its own; it gets `folder` as its argument. Its standard error."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "CUDA_VISIBLE"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr

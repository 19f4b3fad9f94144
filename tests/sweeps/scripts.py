"""The scripts of the published tables, loaded as modules, and the miniature that each is run on."""

from __future__ import annotations

import contextlib
import importlib
import io
import runpy
import sys
from pathlib import Path

from sweeps import cars_s2sd
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

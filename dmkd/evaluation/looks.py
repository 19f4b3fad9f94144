"""How often a checkpoint was measured on test classes: each time is a look; who chooses after several has chosen on test."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from dmkd.models.saved import read_info

JOURNAL = "test_looks.txt"
"""Beside the weights, a line a look: when, at what. A new checkpoint in the same folder starts a new one."""


def looks(folder: Path) -> int:
    """Test looks at a checkpoint folder so far: that of its own run, if it had one, and those of the journal."""
    own = any(str(name).startswith("test") for name in read_info(folder)["extra"].get("metrics", {}))
    journal = folder / JOURNAL
    return own + (len(journal.read_text(encoding="utf-8").splitlines()) if journal.is_file() else 0)


def count_look(folder: Path, what: str) -> int | None:
    """Note a look at `what` (a data set) in the journal; how many there are now. None where the folder cannot be written."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(f"{when} {' '.join(what.split())}\n")
    except OSError:
        return None
    return looks(folder)

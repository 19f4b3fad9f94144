"""Whether a working folder is small enough for `ray job submit --working-dir`, by Ray's own rules of what it leaves out."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from sweeps.checks.diagnosis import Line

LIMIT = 512 * 2**20
"""Bytes of the largest upload that Ray takes (`GCS_STORAGE_MAX_SIZE`); checked against the files before they are packed."""


def upload_line(folder: Path) -> Line:
    """The files that would be uploaded, and, if they are too many bytes, where most of them lie."""
    sizes = upload_sizes(folder)
    total = sum(sizes.values())
    shown = f"{folder.absolute()}: {len(sizes)} files, {total / 2**20:.0f} MiB of at most {LIMIT / 2**20:.0f}"
    if total <= LIMIT:
        return Line("working folder", True, shown)
    tops: Counter[str] = Counter()
    for path, size in sizes.items():
        tops[path.relative_to(folder.absolute()).parts[0]] += size
    largest = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in tops.most_common(3))
    return Line("working folder", False, f"{shown}; name {largest} in .rayignore, or submit without --working-dir")


def upload_sizes(folder: Path) -> dict[Path, int]:
    """Bytes of every file that Ray would pack: not what .gitignore, .rayignore or its own list names."""
    from ray._private import ray_constants
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    folder = folder.absolute()
    sizes: dict[Path, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    named = ray_constants.get_runtime_env_default_excludes()
    _dir_travel(folder, [_get_excludes(folder, named)], add, include_gitignore=True, logger=logging.getLogger("dmkd.upload"))
    return sizes

"""Data sets of the user's own, a folder per class."""

from __future__ import annotations

import os
from pathlib import Path

from dmkd.data import Data
from dmkd.data.pictures import SUFFIXES, DatasetInfo, Listing, make_listing
from dmkd.errors import DataError

Rows = list[tuple[str, str]]
"""(path, class) of each picture."""


def folder_rows(root: Path, name: str) -> tuple[Rows, list[str]]:
    """(path, class) of every picture of a folder-per-class tree, both sorted by name, and what else is wrong, a sentence each.

    Wrong are pictures beside the class folders, folders inside them, and class folders without a picture. Links are followed.
    Raises `DataError` where there is no such folder, or no class folder in it.
    """
    folders, faults = class_folders(root, name)
    rows = []
    for label in folders:
        paths, wrong = class_pictures(root, label, name)
        rows += [(path, label) for path in paths]
        faults += wrong
    return rows, faults


def class_folders(root: Path, name: str) -> tuple[list[str], list[str]]:
    """Sorted names of the class folders below `root`, and a sentence on each picture that lies beside them.

    Hidden folders and those of archivers and tools are passed over. Raises `DataError` as `folder_rows` does.
    """
    if not root.is_dir():
        raise DataError(f"{name}: looked in {root.absolute()}, which is not a folder; wanted one folder of pictures per class")
    entries = _entries(root)
    stray = [entry for entry in entries if not entry.is_dir() and _is_picture(entry.name)]
    faults = [f"{name}: {entry.path} lies outside any class folder; wanted {root}/<class>/{entry.name}" for entry in stray]
    folders = [entry.name for entry in entries if entry.is_dir()]
    if not folders:
        raise DataError(
            faults[0] if faults else f"{name}: no class folders in {root.absolute()}; wanted one folder of pictures per class"
        )
    return folders, faults


def class_pictures(root: Path, label: str, name: str) -> tuple[list[str], list[str]]:
    """Sorted paths, relative to `root`, of the pictures of a class, and what is wrong with its folder."""
    entries = _entries(root / label)
    faults = [
        f"{name}: {entry.path} is a folder inside the class folder {label!r}; wanted pictures there (for a split of your own, "
        "write a manifest: a CSV with path, class, split)"
        for entry in entries
        if entry.is_dir()
    ]
    paths = [f"{label}/{entry.name}" for entry in entries if _is_picture(entry.name) and not entry.is_dir()]
    if not paths and not faults:
        faults = [f"{name}: class folder {root / label} has no pictures ({' '.join(sorted(SUFFIXES))}); add some or remove it"]
    return paths, faults


def folder_listing(root: Path, data: Data) -> Listing:
    """A folder per class; the first half of the sorted class names trains, the second half tests (as CUB and Cars)."""
    rows, faults = folder_rows(root, data.name)
    return make_listing(data.name, root, rows, faults=faults)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _litter(name: str) -> bool:
    return name.startswith((".", "@", "__MACOSX"))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    return sorted((entry for entry in os.scandir(folder) if not _litter(entry.name)), key=lambda entry: entry.name)


FOLDER = DatasetInfo(
    name="folder",
    summary="your own pictures, one folder per class; the first half of the class names trains, the second half tests",
    layout="ROOT/<class>/<picture>.jpg, one folder of pictures per class",
    source="your own pictures",
    licence="your own",
    listing=folder_listing,
)

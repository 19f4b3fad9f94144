"""Data sets of the user's own: a folder per class, or a CSV manifest."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from dmkd.data import Data
from dmkd.data.pictures import SUFFIXES, DatasetInfo, Listing, make_listing
from dmkd.errors import DataError
from dmkd.space import nearest

COLUMNS = ("path", "class", "group", "split")
"""Columns of a manifest; the last two are optional."""
SPLITS = ("train", "val", "test")
"""Values of the column `split`."""


def class_folders(root: Path, name: str) -> list[str]:
    """Sorted names of the class folders below `root`; hidden ones and those of archivers and tools are passed over.

    Raises `DataError` where there is no such folder, or none in it, or where pictures lie beside the class folders.
    """
    if not root.is_dir():
        raise DataError(f"{name}: looked in {root.absolute()}, which is not a folder; wanted one folder of pictures per class")
    entries = _entries(root)
    stray = [entry for entry in entries if not entry.is_dir() and _is_picture(entry.name)]
    if stray:
        raise DataError(f"{name}: {stray[0].path} lies outside any class folder; wanted {root}/<class>/{stray[0].name}")
    folders = [entry.name for entry in entries if entry.is_dir()]
    if not folders:
        raise DataError(f"{name}: no class folders in {root.absolute()}; wanted one folder of pictures per class")
    return folders


def class_pictures(root: Path, label: str, name: str) -> list[str]:
    """Sorted paths, relative to `root`, of the pictures of a class. Raises `DataError` if there are none, or folders inside."""
    entries = _entries(root / label)
    inner = [entry for entry in entries if entry.is_dir()]
    if inner:
        raise DataError(
            f"{name}: {inner[0].path} is a folder inside the class folder {label!r}; wanted pictures there (for a split of "
            f"your own, write a manifest: a CSV with {', '.join(COLUMNS)})"
        )
    paths = [f"{label}/{entry.name}" for entry in entries if _is_picture(entry.name)]
    if not paths:
        raise DataError(
            f"{name}: class folder {root / label} has no pictures ({' '.join(sorted(SUFFIXES))}); add some or remove it"
        )
    return paths


def folder_rows(root: Path, name: str) -> list[tuple[str, str]]:
    """(path, class) of every picture of a folder-per-class tree, both sorted by name."""
    return [(path, label) for label in class_folders(root, name) for path in class_pictures(root, label, name)]


def folder_listing(root: Path, data: Data) -> Listing:
    """A folder per class; the first half of the sorted class names trains, the second half tests (as CUB and Cars)."""
    return make_listing(data.name, root, folder_rows(root, data.name))


def manifest_listing(root: Path, data: Data) -> Listing:
    """A CSV file (or the `manifest.csv` of a folder) with the columns path, class, optional group, optional split.

    Paths are relative to the manifest's folder. Raises `DataError` with the line number: an unknown column, an empty value, a
    path given twice, an unknown split, a class in two splits.
    """
    file = root / "manifest.csv" if root.is_dir() else root
    if not file.is_file():
        raise DataError(f"{data.name}: looked for {file.absolute()}, which does not exist; wanted {MANIFEST.layout}")
    columns = _columns(file)
    _check_rows(file, columns)
    groups, split = columns.get("group"), columns.get("split")
    rows = zip(columns["path"], columns["class"], strict=True)
    return make_listing(data.name, file.parent, rows, groups=groups, split=split)


def _columns(file: Path) -> dict[str, list[str]]:
    try:
        # utf-8-sig: spreadsheets write a byte-order mark that would otherwise join the first column's name.
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as CSV in UTF-8: {error}") from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    _check_header(file, header)
    body = [(line, row) for line, row in enumerate(rows[1:], start=2) if row]
    for line, row in body:
        if len(row) != len(header):
            raise DataError(f"{file}, line {line}: found {len(row)} values, wanted {len(header)} ({', '.join(header)})")
    return {column: [row[position].strip() for _, row in body] for position, column in enumerate(header)}


def _check_header(file: Path, header: Sequence[str]) -> None:
    for column in header:
        if column not in COLUMNS:
            raise DataError(f"{file}: unknown column {column!r}: {nearest(column, COLUMNS)}")
        if header.count(column) > 1:
            raise DataError(f"{file}: column {column!r} stands there twice")
    absent = [column for column in COLUMNS[:2] if column not in header]
    if absent:
        raise DataError(
            f"{file}: no column {' and '.join(absent)}; wanted a first line with {', '.join(COLUMNS)} (the last two optional)"
        )


def _check_rows(file: Path, columns: dict[str, list[str]]) -> None:
    seen: dict[str, int] = {}
    home: dict[str, str] = {}
    for line, values in enumerate(zip(*columns.values(), strict=True), start=2):
        row = dict(zip(columns, values, strict=True))
        where = f"{file}, line {line}"
        empty = [column for column, value in row.items() if not value]
        if empty:
            raise DataError(f"{where}: {empty[0]} is empty; wanted a value in every row (or no such column)")
        if row["path"] in seen:
            raise DataError(f"{where}: {row['path']} already stands in line {seen[row['path']]}; a picture belongs to one class")
        seen[row["path"]] = line
        split = row.get("split", "train")
        if split not in SPLITS:
            raise DataError(f"{where}: split {split!r}: {nearest(split, SPLITS)}")
        if home.setdefault(row["class"], split) != split:
            raise DataError(
                f"{where}: class {row['class']!r} is in {home[row['class']]} and in {split}; splits must not share a class"
            )


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
MANIFEST = DatasetInfo(
    name="manifest",
    summary="your own pictures, named in a CSV file with class, group (junk of the strict protocol) and split",
    layout="a CSV file (or a folder with manifest.csv): columns path, class, optional group, optional split (train, val, test)",
    source="your own pictures",
    licence="your own",
    listing=manifest_listing,
)

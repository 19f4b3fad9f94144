"""Data sets of the user's own, named in a manifest: a CSV or Parquet file with a row for each picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmkd.data import Data
from dmkd.data.pictures import DatasetInfo, Listing, check_inside, make_listing
from dmkd.errors import DataError
from dmkd.space import nearest

BOX = ("x", "y", "width", "height")
"""Columns of an object's box: left, top, width and height in pixels of the upright picture; all four or none of a row."""
COLUMNS = ("path", "class", "group", "split", *BOX)
"""Columns of a manifest; all but the first two are optional."""
ALIASES = {"label": "class"}
"""Other names of columns."""
SPLITS = ("train", "val", "test")
"""Values of the column `split`."""
FILES = ("manifest.csv", "manifest.parquet")
"""Looked for in a folder, in this order."""

Row = dict[str, str]


def manifest_listing(root: Path, data: Data) -> Listing:
    """A CSV or Parquet file (or `manifest.csv` of a folder): path, class (or label), optional group, split, x, y, width, height.

    Paths are relative to the manifest's folder. A row with an empty value, a path given twice or leading out of the folder, an
    unknown split, a class of another split, a part of a box or a box that is none is a fault (with its line). Raises `DataError`
    where the file or its columns cannot be read at all.
    """
    file = next((root / name for name in FILES if (root / name).is_file()), root / FILES[0]) if root.is_dir() else root
    if not file.is_file():
        raise DataError(f"{data.name}: looked for {file.absolute()}, which does not exist; wanted {MANIFEST.layout}")
    header, numbered = _read(file)
    rows, faults = _checked(file, header, numbered)
    if not rows and not faults:
        raise DataError(f"{file}: no rows below the header; wanted one for each picture")
    boxes = [_box(row) for row in rows]
    return make_listing(
        data.name,
        file.parent,
        [(row["path"], row["class"]) for row in rows],
        groups=[row["group"] for row in rows] if "group" in header else None,
        split=[row["split"] for row in rows] if "split" in header else None,
        boxes=boxes if BOX[0] in header else None,
        faults=faults,
    )


def _read(file: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The columns, and for each row its place ("line 7") and values."""
    header, rows = _parquet(file) if file.suffix.lower() in (".parquet", ".pq") else _csv(file)
    _check_header(file, header)
    return [ALIASES.get(column, column) for column in header], rows


def _csv(file: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    try:
        # utf-8-sig: spreadsheets write a byte-order mark that would otherwise join the first column's name.
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            return header, [(f"line {reader.line_num}", [cell.strip() for cell in row]) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as CSV in UTF-8: {error}") from None


def _parquet(file: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    import polars

    try:
        table = polars.read_parquet(file)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file}: not readable as Parquet: {' '.join(str(error).split())}") from None
    rows = [["" if cell is None else str(cell).strip() for cell in row] for row in table.iter_rows()]
    return list(table.columns), [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def _check_header(file: Path, header: Sequence[str]) -> None:
    named = [ALIASES.get(column, column) for column in header]
    for column, name in zip(header, named, strict=True):
        if name not in COLUMNS:
            raise DataError(f"{file}: unknown column {column!r}: {nearest(column, (*COLUMNS, *ALIASES))}")
        if named.count(name) > 1:
            raise DataError(f"{file}: column {column!r} stands there twice" + (" (label is class)" if name == "class" else ""))
    absent = [column for column in COLUMNS[:2] if column not in named]
    if absent:
        raise DataError(
            f"{file}: no column {' and '.join(absent)}; wanted a first line with {', '.join(COLUMNS)} (all but the first two "
            "optional)"
        )
    box = [column for column in BOX if column in named]
    if box and len(box) < len(BOX):
        raise DataError(f"{file}: found the columns {', '.join(box)}; a box wants all of {', '.join(BOX)}, or none")


def _checked(file: Path, header: list[str], numbered: list[tuple[str, list[str]]]) -> tuple[list[Row], list[str]]:
    """The rows in order, and a sentence on each of the others."""
    seen: dict[str, str] = {}
    home: dict[str, str] = {}
    rows, faults = [], []
    for where, values in numbered:
        row = dict(zip(header, values, strict=False))
        wrong = next(_wrong(header, values, row, seen, home), "")
        if wrong:
            faults.append(f"{file}, {where}: {wrong}")
            continue
        seen[row["path"]] = where
        home.setdefault(row["class"], row.get("split", ""))
        rows.append(row)
    return rows, faults


def _wrong(header: list[str], values: list[str], row: Row, seen: dict[str, str], home: dict[str, str]) -> Iterator[str]:
    """What is wrong with a row, the gravest first."""
    if len(values) != len(header):
        yield f"found {len(values)} values, wanted {len(header)} ({', '.join(header)})"
    for column, value in row.items():
        if not value and column not in BOX:
            yield f"{column} is empty; wanted a value in every row (or no such column)"
    if row["path"] in seen:
        yield f"{row['path']} already stands in {seen[row['path']]}; a picture belongs to one class"
    try:
        check_inside(row["path"], "path")
        _box(row)
    except DataError as error:
        yield str(error)
    split, own = row.get("split", ""), row["class"]
    if "split" in row and split not in SPLITS:
        yield f"split {split!r}: {nearest(split, SPLITS)}"
    if home.get(own, split) != split:
        yield f"class {own!r} is in {home[own]} and in {split}; splits must not share a class"


def _box(row: Row) -> tuple[int, ...]:
    """Whole pixels; a row without a box gives four zeros. Raises `DataError`."""
    values = [row.get(column, "") for column in BOX]
    if not any(values):
        return (0,) * len(BOX)
    try:
        left, top, width, height = (round(float(value)) for value in values)
    except (ValueError, OverflowError):
        found = ", ".join(f"{column}={value!r}" for column, value in zip(BOX, values, strict=True))
        raise DataError(f"found {found}; wanted four numbers of pixels, or four empty values") from None
    if left < 0 or top < 0 or width < 1 or height < 1:
        raise DataError(
            f"found the box x={left}, y={top}, width={width}, height={height}; wanted x and y of at least 0, width and "
            "height of at least 1 pixel"
        )
    return left, top, width, height


MANIFEST = DatasetInfo(
    name="manifest",
    summary="your own pictures, named in a CSV or Parquet file with class, group (junk of the strict protocol), split and box",
    layout="a CSV or Parquet file (or a folder with manifest.csv or manifest.parquet): columns path, class (or label), optional "
    "group, optional split (train, val, test), optional x, y, width, height (the object's box, pixels)",
    source="your own pictures",
    licence="your own",
    listing=manifest_listing,
)

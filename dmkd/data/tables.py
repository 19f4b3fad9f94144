"""Reading the text files of published data sets: rows of fields parted by blanks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmkd.errors import DataError

Fields = tuple[str, ...]


def read_table(file: Path, columns: Sequence[str], missing: str, *, head: int = 0) -> tuple[list[Fields], list[str]]:
    """The rows of a text file, but its `head` first lines and blank ones, and what is wrong with others (with the line).

    A name of `columns` that starts with "#" wants a whole number, any other takes what stands there; the last one takes the rest
    of the line. Raises `DataError` where the file does not exist (`missing`: what to do), is not text, or has no such row.
    """
    rows: list[Fields] = []
    faults = []
    for number, line in enumerate(_lines(file, missing), start=1):
        if number <= head or not line.strip():
            continue
        fields = tuple(line.split(maxsplit=len(columns) - 1))
        wrong = _wrong(fields, columns)
        if wrong:
            faults.append(f"{file}, line {number}: {wrong}")
        else:
            rows.append(tuple(field.strip() for field in fields))
    if not rows:
        raise DataError(faults[0] if faults else f"{file}: no rows, wanted {_names(columns)} in each line; get it again")
    return rows, faults


def _lines(file: Path, missing: str) -> list[str]:
    if not file.is_file():
        raise DataError(f"looked for {file.absolute()}, which does not exist; {missing}")
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text file in UTF-8 ({error.reason} at byte {error.start}); get it again") from None


def _wrong(fields: Sequence[str], columns: Sequence[str]) -> str:
    if len(fields) != len(columns):
        return f"found {len(fields)} values, wanted {_names(columns)}"
    for value, column in zip(fields, columns, strict=True):
        if column.startswith("#") and not (value.isascii() and value.isdecimal()):
            return f"found {value[:40]!r} as {column[1:]}, wanted a whole number"
    return ""


def _names(columns: Sequence[str]) -> str:
    return ", ".join(column.lstrip("#") for column in columns)


def find_base(root: Path, names: Sequence[str], mark: str) -> Path:
    """`root`, or its folder among `names` (as the archive unpacks), whichever has the file or folder `mark`; else `root`."""
    return next((base for base in (root, *(root / name for name in names)) if (base / mark).exists()), root)


def without_repeats(rows: Sequence[Fields], column: int, file: Path) -> tuple[list[Fields], list[str]]:
    """The rows whose value in `column` stands there for the first time, and a sentence on each of the others."""
    kept: dict[str, Fields] = {}
    faults = []
    for row in rows:
        if row[column] in kept:
            faults.append(f"{file}: {row[column]} stands there twice; a picture belongs to one class")
        else:
            kept[row[column]] = row
    return list(kept.values()), faults

"""Cars-196 (Krause et al. 2013, "3D Object Representations for Fine-Grained Categorization") in the layouts in circulation.

The field's zero-shot split: classes 1 .. 98 train (8054 pictures), 99 .. 196 test (8131), whatever the original train/test flag.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmkd.data import Data
from dmkd.data.folder import folder_rows
from dmkd.data.pictures import DatasetInfo, Listing, make_listing
from dmkd.errors import DataError

TRAIN_CLASSES = 98
"""Class numbers up to this one train."""

LAYOUT = (
    "cars_annos.mat + car_ims/000001.jpg, or devkit/cars_train_annos.mat + cars_test_annos_withlabels.mat + cars_train/ + "
    "cars_test/, or a folder per class (ROOT/<class>/, ROOT/images/<class>/, or ROOT/train/<class>/ + ROOT/test/<class>/)"
)

CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
"""Of the car's box, counted from 1, both ends inside."""

Row = tuple[str, int, tuple[int, int, int, int] | None]
"""Path relative to the root, class number (1 .. 196), left, top, width and height of the car's box where the file has it."""


def cars_listing(root: Path, data: Data) -> Listing:
    """All pictures of Cars-196, classes in the order of their numbers. Raises `DataError` where no layout is recognised."""
    for base in (root, root / "stanford_cars", root / "cars196"):
        if (base / "cars_annos.mat").is_file():
            return _numbered(base, _single_file_rows(base), base / "cars_annos.mat")
        if (base / "devkit").is_dir():
            return _numbered(base, _devkit_rows(base), base / "devkit" / "cars_meta.mat")
    return _folders(root)


def _single_file_rows(root: Path) -> list[Row]:
    """Layout (a): one annotation file for all 16,185 pictures, `relative_im_path` as in car_ims/000001.jpg."""
    return _rows(root / "cars_annos.mat", "relative_im_path", "")


def _devkit_rows(root: Path) -> list[Row]:
    """Layout (b): train and test folders, an annotation file each; those of the test pictures must carry labels."""
    train = _rows(root / "devkit" / "cars_train_annos.mat", "fname", "cars_train/")
    names = ("cars_test_annos_withlabels.mat", "cars_test_annos.mat")
    places = [folder / name for name in names for folder in (root, root / "devkit")]
    found = [place for place in places if place.is_file()]
    if not found:
        raise DataError(
            f"cars196: no {' or '.join(map(str, places[:2]))}; the test pictures' labels are needed too: half the classes test"
        )
    return train + _rows(found[0], "fname", "cars_test/")


def _rows(file: Path, column: str, prefix: str) -> list[Row]:
    annotations = _load(file, "annotations").reshape(-1)
    absent = [field for field in (column, "class") if field not in (annotations.dtype.names or ())]
    if absent:
        hint = (
            "; the file without labels does not serve: put cars_test_annos_withlabels.mat beside it"
            if absent == ["class"]
            else ""
        )
        raise DataError(f"cars196: {file} has no field {absent[0]!r}{hint}")
    boxed = all(corner in annotations.dtype.names for corner in CORNERS)
    return [(prefix + str(_scalar(row[column])), int(_scalar(row["class"])), _box(row) if boxed else None) for row in annotations]


def _box(row: Any) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(_scalar(row[corner])) for corner in CORNERS)
    return left - 1, top - 1, right - left + 1, bottom - top + 1


def _load(file: Path, key: str) -> Any:
    from scipy.io import loadmat

    if not file.is_file():
        raise DataError(f"cars196: looked for {file.absolute()}, which does not exist; wanted {LAYOUT}")
    try:
        return loadmat(file, variable_names=[key])[key]
    except KeyError:
        raise DataError(f"cars196: {file} has no variable {key!r}; it is not the annotation file of Cars-196") from None
    except Exception as error:  # loadmat meets damaged bytes with errors of a dozen classes
        raise DataError(f"cars196: {file} cannot be read as a MATLAB file ({error}); get it again") from None


def _scalar(value: Any) -> Any:
    """loadmat wraps every field of a struct array in arrays of one element."""
    return value.reshape(-1)[0] if hasattr(value, "reshape") and value.size else value


def _numbered(root: Path, rows: list[Row], names_file: Path) -> Listing:
    numbers = sorted({number for _, number, _ in rows})
    boxes = [box for _, _, box in rows if box is not None]
    names = _class_names(names_file)
    titles = {number: f"{number:03d} {names[number - 1]}" if 0 < number <= len(names) else f"{number:03d}" for number in numbers}
    return make_listing(
        "cars196",
        root,
        [(path, titles[number]) for path, number, _ in rows],
        classes=[titles[number] for number in numbers],
        split=["train" if number <= TRAIN_CLASSES else "test" for _, number, _ in rows],
        boxes=boxes if len(boxes) == len(rows) else None,
    )


def _class_names(file: Path) -> list[str]:
    """The 196 names, or none where the file that carries them is absent: the numbers are what counts."""
    return [str(_scalar(name)) for name in _load(file, "class_names").reshape(-1)] if file.is_file() else []


def _folders(root: Path) -> Listing:
    """Layout (c): sorted folder names, the first half trains (98 of 196), as the field's released loaders do."""
    base = root / "images" if (root / "images").is_dir() else root
    parts = [part for part in ("train", "test") if (base / part).is_dir()]
    try:
        if len(parts) == 2:
            halves = {part: folder_rows(base / part, "cars196") for part in parts}
            rows = [(f"{part}/{path}", label) for part, (found, _) in halves.items() for path, label in found]
            faults = [fault for _, wrong in halves.values() for fault in wrong]
        else:
            rows, faults = folder_rows(base, "cars196")
    except DataError as error:
        raise DataError(f"{error}; Cars-196 is expected as {LAYOUT}") from None
    return make_listing("cars196", base, rows, faults=faults)


INFO = DatasetInfo(
    name="cars196",
    summary="Cars-196 (Stanford Cars): 196 car models, the first 98 train, the last 98 test",
    layout=LAYOUT,
    source="https://ai.stanford.edu/~jkrause/cars/car_dataset.html (often offline; torchvision's StanfordCars layout is read)",
    licence="non-commercial research and education only (the authors' terms of use)",
    listing=cars_listing,
    classes=196,
    images=16185,
    train_images=8054,
)

"""CUB-200-2011 (Wah et al. 2011, "The Caltech-UCSD Birds-200-2011 Dataset").

The field's zero-shot split: classes 1 .. 100 train (5864 pictures), 101 .. 200 test (5924), whatever train_test_split.txt says.
"""

from __future__ import annotations

from pathlib import Path

from dmkd.data import Data
from dmkd.data.folder import folder_rows
from dmkd.data.pictures import DatasetInfo, Listing, make_listing
from dmkd.data.tables import find_base, read_table, without_repeats
from dmkd.errors import DataError

TRAIN_CLASSES = 100
"""Class numbers up to this one train."""

LAYOUT = (
    "images.txt + image_class_labels.txt + classes.txt (+ bounding_boxes.txt) + images/<class>/<picture>.jpg, in ROOT or in "
    "ROOT/CUB_200_2011; or without the text files a folder per class in ROOT/images/"
)


def cub_listing(root: Path, data: Data) -> Listing:
    """All pictures of CUB-200-2011, classes in the order of their numbers. Raises `DataError` where no layout is recognised."""
    base = find_base(root, ("CUB_200_2011",), "images.txt")
    if not (base / "images.txt").is_file():
        return _folders(find_base(root, ("CUB_200_2011",), "images"))
    images, faults = read_table(base / "images.txt", ("#image_id", "path"), _wanted())
    images, repeated = without_repeats(images, 1, base / "images.txt")
    labels, unlabelled = read_table(base / "image_class_labels.txt", ("#image_id", "#class_id"), _wanted())
    number = {image: int(label) for image, label in labels}
    unknown = [f"{base / 'image_class_labels.txt'}: no label for image {image} ({path})" for image, path in images]
    absent = [sentence for sentence, (image, _) in zip(unknown, images, strict=True) if image not in number]
    rows = [(path, number[image], image) for image, path in images if image in number]
    titles, mistitled = _titles(base)
    names = {label: titles.get(label, f"{label:03d}") for label in sorted({label for _, label, _ in rows})}
    boxes, unboxed = _boxes(base)
    return make_listing(
        "cub200",
        base / "images",
        [(path, names[label]) for path, label, _ in rows],
        classes=list(names.values()),
        split=["train" if label <= TRAIN_CLASSES else "test" for _, label, _ in rows],
        boxes=None if boxes is None else [boxes.get(image, (0, 0, 0, 0)) for _, _, image in rows],
        faults=[*faults, *repeated, *unlabelled, *absent, *mistitled, *unboxed],
    )


def _titles(base: Path) -> tuple[dict[int, str], list[str]]:
    rows, faults = read_table(base / "classes.txt", ("#class_id", "name"), _wanted())
    return {int(label): name for label, name in rows}, faults


def _boxes(base: Path) -> tuple[dict[str, tuple[int, ...]] | None, list[str]]:
    """left, top, width and height of each image that has one, in whole pixels; None where the file is absent."""
    file = base / "bounding_boxes.txt"
    if not file.is_file():
        return None, []
    rows, faults = read_table(file, ("#image_id", "x", "y", "width", "height"), _wanted())
    boxes: dict[str, tuple[int, ...]] = {}
    for image, *values in rows:
        try:
            left, top, width, height = (round(float(value)) for value in values)
        except (ValueError, OverflowError):
            faults.append(f"{file}: image {image}: found {' '.join(values)}, wanted four numbers of pixels")
            continue
        boxes[image] = max(0, left), max(0, top), width, height
    return boxes, faults


def _folders(base: Path) -> Listing:
    """Sorted folder names, the first half trains (100 of 200), as the field's released loaders do."""
    try:
        rows, faults = folder_rows(base / "images", "cub200")
    except DataError as error:
        raise DataError(f"{error}; CUB-200-2011 is expected as {LAYOUT}") from None
    return make_listing("cub200", base / "images", rows, faults=faults)


def _wanted() -> str:
    return f"CUB-200-2011 is expected as {LAYOUT}"


INFO = DatasetInfo(
    name="cub200",
    summary="CUB-200-2011: 200 bird species, the first 100 train, the last 100 test",
    layout=LAYOUT,
    source="https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz)",
    licence="non-commercial research and education only (the authors' terms of use)",
    listing=cub_listing,
    classes=200,
    images=11788,
    train_images=5864,
)

"""Small trees of real pictures for tests: emoji of OpenMoji and Twemoji, rendered with resvg (needs the extra `quickstart`).

The same signs as the data set "signs", and their skin tones: up to 12 drawings of one sign by two artists.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmkd.data.signs import SKIN_TONES, Sign, render, sign_files

VENDORS = ("openmoji", "twemoji")
CARS_COLUMNS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@cache
def drawings(minimum: int = 2) -> list[list[tuple[str, Sign]]]:
    """(vendor, sign) of at least `minimum` drawings for every sign of one code point, in a fixed order, artists in turn."""
    files = [sign_files(vendor) for vendor in VENDORS]
    bases = [sign for sign in sorted(set(files[0]) & set(files[1])) if len(sign) == 1 and "1f300" <= sign[0] < "1fb00"]
    variants = {base: [base, *((base[0], tone) for tone in sorted(SKIN_TONES))] for base in bases if base[0] not in SKIN_TONES}
    rows = [
        [(vendor, sign) for sign in signs for vendor, known in zip(VENDORS, files, strict=True) if sign in known]
        for signs in variants.values()
    ]
    return [row for row in rows if len(row) >= minimum]


@cache
def sign_png(vendor: str, sign: Sign, size: int) -> bytes:
    """One drawing as a PNG file of `size` x `size` pixels, on white."""
    return render(sign_files(vendor)[sign], size)


def sign_picture(number: int, size: int = 96, drawing: int = 0) -> Image.Image:
    """The `number`-th sign as a decoded RGB picture."""
    return Image.open(io.BytesIO(sign_png(*drawings()[number][drawing], size))).convert("RGB")


def make_folder(root: Path, classes: int = 12, size: int = 96, per_class: int = 2, wide: int = 0) -> Path:
    """A folder per class of `per_class` (at most 12) drawings each; `wide` adds white margins of so many pixels."""
    for label, row in enumerate(_classes(classes, per_class)):
        folder = root / f"class_{label:03d}"
        folder.mkdir(parents=True)
        for number, (vendor, sign) in enumerate(row):
            _save(folder / f"{number}-{vendor}.png", vendor, sign, size, wide)
    return root


def make_manifest(
    root: Path, classes: int = 12, size: int = 96, per_class: int = 2, *, group: bool = True, split: bool = True
) -> Path:
    """Pictures and a `manifest.csv` beside them (its path is returned): group: vendor; even classes train, odd ones test."""
    make_folder(root / "images", classes, size, per_class)
    files = sorted((root / "images").rglob("*.png"))
    rows = [
        {
            "path": file.relative_to(root).as_posix(),
            "class": file.parent.name,
            "group": file.stem.split("-")[1],
            "split": "test" if int(file.parent.name[-3:]) % 2 else "train",
        }
        for file in files
    ]
    columns = ["path", "class", *(["group"] if group else []), *(["split"] if split else [])]
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return root / "manifest.csv"


def make_cars196(root: Path, layout: str = "car_ims", classes: int = 8, per_class: int = 4, size: int = 96) -> Path:
    """A small tree in a real layout of Cars-196: "car_ims", "devkit" or "folder".

    Half of the classes carry the numbers 1, 2, ... (the field's training half), the others 99, 100, ... (its test half).
    """
    cars = [(number, drawing) for number, row in _halved(classes, per_class, 98) for drawing in row]
    writers = {"car_ims": _write_car_ims, "devkit": _write_devkit, "folder": _write_car_folders}
    writers[layout](root, cars, size)
    return root


def make_cub200(root: Path, classes: int = 8, per_class: int = 4, size: int = 96) -> Path:
    """A small tree in the archive's own layout of CUB-200-2011: the text files, and pictures below images/<class>/.

    Half of the classes carry the numbers 1, 2, ... (the field's training half), the others 101, 102, ...
    """
    base = root / "CUB_200_2011"
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "bounding_boxes": [], "train_test_split": []}
    birds = [(number, drawing) for number, row in _halved(classes, per_class, 100) for drawing in row]
    for image, (number, (vendor, sign)) in enumerate(birds, start=1):
        path = f"{number:03d}.Bird_{number}/Bird_{number}_{image:04d}_{790000 + image}.jpg"
        (base / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        _save(base / "images" / path, vendor, sign, size, size // 4)
        rows = (path, number, f"{size // 4}.0 0.0 {size}.0 {size}.0", image % 2)
        for lines, value in zip(lists.values(), rows, strict=True):
            lines.append(f"{image} {value}")
    lists["classes"] = [f"{number} {number:03d}.Bird_{number}" for number in range(1, 201)]
    for name, lines in lists.items():
        (base / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def make_sop(root: Path, classes: int = 8, per_class: int = 4, size: int = 96) -> Path:
    """A small tree in the archive's own layout of Stanford Online Products; half of the products train (1, 2, ...)."""
    base = root / "Stanford_Online_Products"
    kinds = ("bicycle", "chair", "mug")
    lists: dict[str, list[str]] = {"train": [], "test": []}
    image = 0
    for number, row in _halved(classes, per_class, 11318):
        kind = number % len(kinds)
        for view, (vendor, sign) in enumerate(row):
            image += 1
            path = f"{kinds[kind]}_final/{111085122871 + number}_{view}.JPG"
            (base / path).parent.mkdir(parents=True, exist_ok=True)
            _save(base / path, vendor, sign, size, size // 4)
            lists["train" if number <= 11318 else "test"].append(f"{image} {number} {kind + 1} {path}")
    for name, lines in ({"info": lists["train"] + lists["test"]} | lists).items():
        text = "\n".join(["image_id class_id super_class_id path", *lines])
        (base / f"Ebay_{name}.txt").write_text(text + "\n", encoding="utf-8")
    return root


def make_inshop(root: Path, classes: int = 8, per_class: int = 4, size: int = 96) -> Path:
    """A small tree in the archive's own layout of In-Shop: half of the items train; of the others' pictures half are queries."""
    base = root / "In-shop Clothes Retrieval Benchmark"
    lists: dict[str, list[str]] = {"list_eval_partition": [], "list_bbox_inshop": []}
    for item, row in enumerate(_classes(classes, per_class), start=1):
        for view, (vendor, sign) in enumerate(row):
            path = f"img/{('WOMEN', 'MEN')[item % 2]}/Tees_Tanks/id_{item:08d}/{1 + view // 2:02d}_{1 + view % 2}_front.jpg"
            (base / "Img" / path).parent.mkdir(parents=True, exist_ok=True)
            _save(base / "Img" / path, vendor, sign, size, size // 4)
            status = "train" if item <= classes // 2 else ("query", "gallery")[view % 2]
            lists["list_eval_partition"].append(f"{path:<70} id_{item:08d} {status}")
            lists["list_bbox_inshop"].append(f"{path:<70} 1 1 {size // 4 + 1:03d} 001 {size // 4 + size:03d} {size:03d}")
    heads = ("image_name item_id evaluation_status", "image_name clothes_type pose_type x_1 y_1 x_2 y_2")
    for (name, lines), folder, head in zip(lists.items(), ("Eval", "Anno"), heads, strict=True):
        (base / folder).mkdir()
        (base / folder / f"{name}.txt").write_text("\n".join([str(len(lines)), head, *lines]) + "\n", encoding="utf-8")
    return root


def _halved(classes: int, per_class: int, half: int) -> list[tuple[int, list[tuple[str, Sign]]]]:
    """(class number, drawings): half of the classes count from 1, the others from `half` + 1."""
    numbers = [1 + label for label in range(classes // 2)] + [half + 1 + label for label in range(classes - classes // 2)]
    return list(zip(numbers, _classes(classes, per_class), strict=True))


def class_names() -> np.ndarray[Any, Any]:
    """[1, 196] cell array, as in the real files."""
    names = np.empty((1, 196), dtype=object)
    names[0] = [f"Maker Model {number} 2012" for number in range(1, 197)]
    return names


Car = tuple[int, tuple[str, Sign]]


def _write_car_ims(root: Path, cars: Sequence[Car], size: int) -> None:
    from scipy.io import savemat

    (root / "car_ims").mkdir(parents=True)
    rows = []
    for position, (number, (vendor, sign)) in enumerate(cars, start=1):
        path = f"car_ims/{position:06d}.jpg"
        _save(root / path, vendor, sign, size, size // 4)
        rows.append((path, *_box(size), number, position % 2))
    savemat(
        root / "cars_annos.mat",
        {"annotations": _struct(rows, ("relative_im_path", *CARS_COLUMNS, "class", "test")), "class_names": class_names()},
    )


def _write_devkit(root: Path, cars: Sequence[Car], size: int) -> None:
    from scipy.io import savemat

    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": class_names()})
    for part, chosen in (("train", cars[::2]), ("test", cars[1::2])):
        (root / f"cars_{part}").mkdir()
        rows = []
        for position, (number, (vendor, sign)) in enumerate(chosen, start=1):
            _save(root / f"cars_{part}" / f"{position:05d}.jpg", vendor, sign, size, size // 4)
            rows.append((*_box(size), number, f"{position:05d}.jpg"))
        annotations = _struct(rows, (*CARS_COLUMNS, "class", "fname"))
        file = "devkit/cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat"
        savemat(root / file, {"annotations": annotations})
    unlabelled = [(*row[:4], row[-1]) for row in rows]
    # The public devkit's own test file has boxes and names, no classes.
    savemat(root / "devkit" / "cars_test_annos.mat", {"annotations": _struct(unlabelled, (*CARS_COLUMNS, "fname"))})


def _write_car_folders(root: Path, cars: Sequence[Car], size: int) -> None:
    for position, (number, (vendor, sign)) in enumerate(cars, start=1):
        folder = root / "images" / f"{number:03d}.Maker Model {number} 2012"
        folder.mkdir(parents=True, exist_ok=True)
        _save(folder / f"{position:06d}.jpg", vendor, sign, size, size // 4)


def _struct(rows: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> np.ndarray[Any, Any]:
    """[1, N] MATLAB struct array."""
    array = np.empty((1, len(rows)), dtype=[(column, object) for column in columns])
    for position, row in enumerate(rows):
        array[0, position] = row
    return array


def _box(size: int) -> tuple[int, int, int, int]:
    return 1, 1, size + 2 * (size // 4), size


def _classes(classes: int, per_class: int) -> list[list[tuple[str, Sign]]]:
    rows = drawings(per_class)
    if len(rows) < classes:
        raise ValueError(f"{len(rows)} signs have {per_class} drawings; {classes} wanted")
    return [row[:per_class] for row in rows[:classes]]


def _save(file: Path, vendor: str, sign: Sign, size: int, wide: int) -> None:
    content = sign_png(vendor, sign, size)
    if file.suffix == ".png" and not wide:
        file.write_bytes(content)
        return
    sheet = Image.new("RGB", (size + 2 * wide, size), "white")
    sheet.paste(Image.open(io.BytesIO(content)).convert("RGB"), (wide, 0))
    sheet.save(file, quality=95)

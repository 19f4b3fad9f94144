"""Cars-196 in its real layouts, on small trees of real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from torchvision.datasets import StanfordCars

from dmkd.data import Data
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.splits import split
from dmkd.errors import DataError
from tests.pictures import class_names, make_cars196


def cars(root: Path) -> Pictures:
    return load_dataset(Data(name="cars196", root=str(root)))


def refused(root: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        cars(root)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def numbers(pictures: Pictures) -> list[int]:
    """The class number (1 .. 196) of every picture."""
    return [int(pictures.classes[label][:3]) for label in pictures.labels]


@pytest.mark.parametrize("layout", ["car_ims", "devkit", "folder"])
def test_the_first_98_classes_train_whatever_the_original_split(tmp_path: Path, layout: str) -> None:
    pictures = cars(make_cars196(tmp_path, layout, classes=6, per_class=4, size=32))
    assert sorted(numbers(pictures)) == sorted([1, 2, 3, 99, 100, 101] * 4)
    parts = split(pictures, Data(validation=0))
    assert parts.test is not None
    assert sorted(set(numbers(parts.train))) == [1, 2, 3]
    assert sorted(set(numbers(parts.test))) == [99, 100, 101]
    assert (len(parts.train), len(parts.test)) == (12, 12)


def test_one_annotation_file(tmp_path: Path) -> None:
    pictures = cars(make_cars196(tmp_path, "car_ims", size=32))
    rows = loadmat(tmp_path / "cars_annos.mat", squeeze_me=True)["annotations"]
    assert list(pictures.paths) == [str(row["relative_im_path"]) for row in rows]
    assert numbers(pictures) == [int(row["class"]) for row in rows]
    assert pictures.classes[0] == "001 Maker Model 1 2012"


@pytest.mark.parametrize("layout", ["car_ims", "devkit", "folder"])
def test_boxes_count_from_0_and_have_a_width(tmp_path: Path, layout: str) -> None:
    """The annotations' corners count from 1 and lie inside: (1, 1, W, H) is the whole picture of W x H."""
    pictures = cars(make_cars196(tmp_path, layout, size=32))
    if layout == "folder":
        assert pictures.boxes is None
        return
    assert pictures.boxes is not None
    for position in range(len(pictures)):
        with Image.open(pictures.file(position)) as picture:
            assert pictures.boxes[position].tolist() == [0, 0, *picture.size]


def test_devkit_agrees_with_torchvision(tmp_path: Path) -> None:
    pictures = cars(make_cars196(tmp_path / "stanford_cars", "devkit", size=32).parent)
    theirs = [pair for part in ("train", "test") for pair in StanfordCars(tmp_path, split=part)._samples]
    ours = [(pictures.file(position), number - 1) for position, number in enumerate(numbers(pictures))]
    assert ours == theirs


def test_devkit_with_labelled_test_annotations_in_the_devkit(tmp_path: Path) -> None:
    make_cars196(tmp_path, "devkit", size=32)
    before = cars(tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").rename(tmp_path / "devkit" / "cars_test_annos.mat")
    assert cars(tmp_path).fingerprint == before.fingerprint


def test_devkit_without_test_labels_is_refused(tmp_path: Path) -> None:
    make_cars196(tmp_path, "devkit", size=32)
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    refused(tmp_path, "cars_test_annos.mat", "no field 'class'", "cars_test_annos_withlabels.mat")
    (tmp_path / "devkit" / "cars_test_annos.mat").unlink()
    refused(tmp_path, "cars_test_annos_withlabels.mat", "labels")


def test_folders_of_train_and_test_are_joined(tmp_path: Path) -> None:
    source = make_cars196(tmp_path / "a", "folder", size=32) / "images"
    for position, file in enumerate(sorted(source.rglob("*.jpg"))):
        target = tmp_path / "b" / ("train", "test")[position % 2] / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    pictures = cars(tmp_path / "b")
    assert sorted(numbers(pictures)) == sorted([1, 2, 3, 4, 99, 100, 101, 102] * 4)


def test_missing_pictures_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    make_cars196(tmp_path, "car_ims", size=32)
    for number in (3, 7):
        (tmp_path / "car_ims" / f"{number:06d}.jpg").unlink()
    refused(tmp_path, "2 of 32 pictures are missing", "car_ims/000003.jpg", "dmkd prepare cars196 --root")


def test_other_folders_and_damaged_annotations(tmp_path: Path) -> None:
    refused(tmp_path / "none", str(tmp_path / "none"), "does not exist", "car_ims/000001.jpg")
    refused(tmp_path, "no class folders", "car_ims/000001.jpg")
    (tmp_path / "cars_annos.mat").write_bytes(b"<html>not found</html>" * 20)
    refused(tmp_path, "cars_annos.mat", "MATLAB")
    savemat(tmp_path / "cars_annos.mat", {"other": np.ones(3)})
    refused(tmp_path, "no variable 'annotations'")
    savemat(tmp_path / "cars_annos.mat", {"annotations": np.ones(3)})
    refused(tmp_path, "no field 'relative_im_path'")


def test_annotations_cannot_leave_the_folder(tmp_path: Path) -> None:
    row = np.empty((1, 1), dtype=[("relative_im_path", object), ("class", object)])
    row[0, 0] = ("../../etc/passwd", 1)
    savemat(tmp_path / "cars_annos.mat", {"annotations": row, "class_names": class_names()})
    refused(tmp_path, "leaves the data set's folder")
